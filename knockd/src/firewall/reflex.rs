//! Puts a table in again that somebody deletes: on the thread that hears of it, with a transaction that is ready.
//!
//! Who has deleted a table with its sets takes the kernel's lock once more in a moment, when it closes its socket, for as
//! long as it takes to free what was in them: half a second for a million elements. A transaction that is sent
//! while the deletion is still being told is in before that, whatever was in the sets.
//!
//! # Security considerations
//! - The sets begin empty: nobody is let in by them. Live grants follow from the event loop.
//! - Where a table is there, the kernel refuses it: nothing that somebody else has put in is changed here.
//! - It is tried a bounded number of times in a second, so that a tool that keeps deleting the table keeps
//!   nobody busy.

use std::{
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::{
    netlink::{Batch, Netlink, PortId},
    template::Template,
};

/// So often at once, and so often in a second beyond that.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// The transaction that is ready.
#[derive(Clone, Default)]
pub(super) struct Ready(Arc<Mutex<Option<Batch>>>);

impl Ready {
    /// Has this one put in from here on.
    pub(super) fn set(&self, template: &Template) {
        let mut batch = Batch::numbered_from(1);
        template.put_in(&mut batch, None);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
    }

    fn get(&self) -> Option<Batch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A socket of its own, and what it puts in.
pub(super) struct Reflex {
    netlink: Netlink,
    ready: Ready,
    limit: DefaultDirectRateLimiter,
}

impl Reflex {
    /// Opens a socket in this process's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(ready: Ready) -> io::Result<Self> {
        let limit = RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(AT_ONCE));
        Ok(Self { netlink: Netlink::open()?, ready, limit })
    }

    /// The number of its socket, which the kernel's notifications of what it puts in carry.
    pub(super) const fn port_id(&self) -> PortId {
        self.netlink.port_id()
    }

    /// What it puts in.
    pub(super) fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// Puts the table in, unless there is one. Whether it did.
    pub(super) fn put_in(&mut self) -> bool {
        let Some(batch) = self.ready.get() else { return false };
        // Where it fails, the event loop looks, and says why.
        self.limit.check().is_ok() && self.netlink.commit(batch).is_ok()
    }
}
