//! Watches the kernel's nftables: whenever anybody but the daemon itself touches our table, the daemon is told,
//! microseconds after the commit.
//!
//! A thread of its own waits for the kernel's notifications (group NFNLGRP_NFTABLES). What comes while the
//! daemon is busy is put together into one [`Sighting`], of bounded size.
//!
//! # Security considerations
//! - What the daemon's own socket changes is told apart by the number that the kernel has given that socket,
//!   in the kernel, by a filter (classic BPF): a knock wakes nobody. Nobody else can send under that number.
//! - A notification that is lost or can't be read, or a socket that fails, counts as a change: the table is
//!   looked at. While the watch is blind, that is every few seconds.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{SockFilter, SockRef};
use tokio::sync::Notify;
use tracing::{error, info};

use super::{
    netlink::PortId,
    notice::{self, Author, Deed, Notice, Object},
    reflex::{Ready, Reflex},
    template::Template,
};
use crate::{clock, gate::clock::Uptime};

/// NFNLGRP_NFTABLES (include/uapi/linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;
/// More than a notification can have: the kernel puts them together up to NLMSG_GOODSIZE, 8 KiB at most.
const RECEIVE_LEN: usize = 64 * 1024;
/// Room for what is told of another tool's transaction with some 400,000 elements: what finds none is lost. It is taken
/// only while there is that much.
const RECEIVE_BUFFER: usize = 32 * 1024 * 1024;
/// While nothing can be received, the table is looked at this often.
const WHILE_BLIND: Duration = Duration::from_secs(5);

/// What was seen since the daemon looked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When the first of it was seen.
    pub since: Uptime,
    /// Who made the last transaction of it, if the kernel said.
    pub author: Option<Author>,
    /// What was touched; incomplete if something may have been missed.
    pub notice: Notice,
    /// When the table was put in again, with empty sets, because it was deleted (module `reflex`).
    pub put_in: Option<Uptime>,
}

impl Sighting {
    /// Something may have been changed by nobody knows whom.
    #[must_use]
    pub fn missed(since: Uptime) -> Self {
        let notice = Notice { incomplete: true, ..Notice::default() };
        Self { since, author: None, notice, put_in: None }
    }

    /// Adds what was seen later.
    pub fn merge(&mut self, later: Self) {
        self.since = self.since.min(later.since);
        // What was put in before was deleted as well then.
        if later.put_in.is_some() || later.deleted_table() {
            self.put_in = later.put_in;
        }
        // Who puts in again what another one has deleted is not who is looked for.
        if self.author.is_none() || later.deleted_anything() {
            self.author = later.author;
        }
        self.notice.incomplete |= later.notice.incomplete;
        let earlier = std::mem::take(&mut self.notice.touched);
        for mut touched in earlier.into_iter().chain(later.notice.touched) {
            // Nobody has looked between the two: what was put in may have been another table than the one that is there.
            if touched.deed == Deed::Replaced {
                touched.deed = Deed::Deleted;
            }
            self.notice.keep(touched);
        }
        for (element, deed) in later.notice.elements {
            self.notice.keep_element(element, deed);
        }
    }

    /// At the end of a transaction: a table that it has deleted first and added then was never away.
    fn concluded(mut self) -> Self {
        let of_table = |deed| {
            let mut touched = self.notice.touched.iter();
            touched.position(|touched| touched.object == Object::Table && touched.deed == deed)
        };
        if let (Some(deleted), Some(added)) = (of_table(Deed::Deleted), of_table(Deed::Added))
            && deleted < added
            && !self.notice.incomplete
            && let Some(touched) = self.notice.touched.get_mut(deleted)
        {
            touched.deed = Deed::Replaced;
        }
        self
    }

    fn deleted_anything(&self) -> bool {
        self.notice.touched.iter().any(|touched| touched.deed == Deed::Deleted)
    }

    /// Whether the whole table was deleted; it may be back.
    #[must_use]
    pub fn deleted_table(&self) -> bool {
        self.did_to_table(Deed::Deleted)
    }

    /// Whether another one was put in the table's place, at the same moment.
    #[must_use]
    pub fn replaced_table(&self) -> bool {
        self.did_to_table(Deed::Replaced)
    }

    fn did_to_table(&self, deed: Deed) -> bool {
        let mut touched = self.notice.touched.iter();
        touched.any(|touched| touched.object == Object::Table && touched.deed == deed)
    }

    /// Whether nothing but elements was touched.
    #[must_use]
    pub fn elements_alone(&self) -> bool {
        let mut touched = self.notice.touched.iter();
        !self.notice.incomplete && touched.all(|touched| touched.object == Object::Element)
    }

    /// Whether any element can be another than it was: something was missed, or a set or the table as a whole was
    /// deleted or put in.
    #[must_use]
    pub fn may_concern_all_elements(&self) -> bool {
        let mut touched = self.notice.touched.iter();
        self.notice.incomplete
            || touched.any(|touched| matches!(touched.object, Object::Table | Object::Set))
    }

    /// Whether this set itself was deleted or put in.
    #[must_use]
    pub fn touched_set(&self, set: &str) -> bool {
        let mut touched = self.notice.touched.iter();
        touched.any(|touched| touched.object == Object::Set && touched.name == set)
    }

    /// Whether elements of this set were touched.
    #[must_use]
    pub fn touched_elements_of(&self, set: &str) -> bool {
        let mut touched = self.notice.touched.iter();
        touched.any(|touched| touched.object == Object::Element && touched.name == set)
    }
}

/// A watch on our table.
#[derive(Clone)]
pub struct Watch {
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    sighting: Mutex<Option<Sighting>>,
    wake: Notify,
    /// The socket that is listened on, unless the watch is blind.
    socket: Mutex<Option<Arc<Socket>>>,
    /// What puts the table in again where it is deleted, once it is known.
    ready: Ready,
}

impl Watch {
    /// Watches from here on, in this process's network namespace. What the socket with the number `own` does
    /// is left out. Where the kernel doesn't allow it, that is told, and the table is to be looked at every few seconds
    /// until it does.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(own: PortId) -> io::Result<Self> {
        let reflex = Reflex::new(Ready::default())?;
        let subscribed = subscribe([own, reflex.port_id()]);
        Self::start_with(subscribed, own, reflex)
    }

    fn start_with(subscribed: io::Result<Socket>, own: PortId, reflex: Reflex) -> io::Result<Self> {
        let seen = Arc::new(Seen { ready: reflex.ready(), ..Seen::default() });
        let told = Arc::clone(&seen);
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || told.watch(subscribed, own, reflex))?;
        Ok(Self { seen })
    }

    /// The table that is put in again at once where somebody deletes it.
    pub fn keep(&self, template: &Template) {
        self.seen.ready.set(template);
    }

    /// Does something while the kernel tells nobody of changes: it makes a message of 4 KiB for each element that it
    /// tells of. Who else changes something meanwhile isn't told of either.
    pub fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        let socket = self.seen.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_left = socket.as_ref().is_some_and(|it| it.drop_membership(GROUP_NFTABLES).is_ok());
        let done = work();
        if is_left && socket.is_some_and(|it| it.add_membership(GROUP_NFTABLES).is_err()) {
            self.doubt();
        }
        done
    }

    /// Counts as if something had been missed.
    pub fn doubt(&self) {
        self.seen.tell(Sighting::missed(clock::now().uptime));
    }

    /// What was seen and not yet taken.
    #[must_use]
    pub fn take(&self) -> Option<Sighting> {
        self.seen.lock().take()
    }

    /// Waits until something is seen, and takes it. Nothing is lost if it is dropped.
    pub async fn sighted(&self) -> Sighting {
        loop {
            if let Some(sighting) = self.take() {
                return sighting;
            }
            self.seen.wake.notified().await;
        }
    }
}

impl Seen {
    fn lock(&self) -> impl std::ops::DerefMut<Target = Option<Sighting>> {
        self.sighting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, sighting: Sighting) {
        let mut seen = self.lock();
        match &mut *seen {
            Some(earlier) => earlier.merge(sighting),
            None => *seen = Some(sighting),
        }
        drop(seen);
        self.wake.notify_one();
    }

    fn watch(&self, mut subscribed: io::Result<Socket>, own: PortId, mut reflex: Reflex) {
        let mut is_blind = false;
        loop {
            let error = match subscribed {
                Ok(socket) => {
                    if is_blind {
                        info!(event = "watch-back", "nftables is watched again");
                        is_blind = false;
                    }
                    let socket = Arc::new(socket);
                    self.listen_on(Some(Arc::clone(&socket)));
                    let error = self.read_all(&socket, &mut reflex);
                    self.listen_on(None);
                    error
                }
                Err(error) => error,
            };
            if !is_blind {
                error!(
                    event = "watch-lost",
                    "nftables can't be watched: {error}; the table is looked at every {} s until it can",
                    WHILE_BLIND.as_secs()
                );
                is_blind = true;
            }
            self.tell(Sighting::missed(clock::now().uptime));
            thread::sleep(WHILE_BLIND);
            subscribed = subscribe([own, reflex.port_id()]);
        }
    }

    fn listen_on(&self, socket: Option<Arc<Socket>>) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Reads until the socket fails.
    fn read_all(&self, socket: &Socket, reflex: &mut Reflex) -> io::Error {
        let mut buffer = Vec::with_capacity(RECEIVE_LEN);
        let mut pending: Option<Sighting> = None;
        // Once in each transaction of somebody else's.
        let (mut was_tried, mut put_in) = (false, None);
        loop {
            buffer.clear();
            let received = socket.recv(&mut buffer, 0);
            let since = clock::now().uptime;
            let mut notice = match received {
                Ok(_) => notice::read(&buffer),
                // The socket's buffer was full: netlink(7).
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    Notice { incomplete: true, ..Notice::default() }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error,
            };
            if !was_tried && notice.deletes_what_ends_with_the_table() {
                was_tried = true;
                put_in = reflex.put_in().then(|| clock::now().uptime);
            }
            let end = notice.end.take();
            let (has_ended, was_missed) = (end.is_some(), notice.incomplete);
            if pending.is_some() || was_missed || !notice.touched.is_empty() {
                let sighting = Sighting { since, author: end.flatten(), notice, put_in: None };
                match &mut pending {
                    Some(earlier) => earlier.merge(sighting),
                    None => pending = Some(sighting),
                }
            }
            // Who did it comes last.
            if (has_ended || was_missed)
                && let Some(sighting) = pending.take()
            {
                self.tell(Sighting { put_in: put_in.take(), ..sighting.concluded() });
                was_tried = false;
            }
        }
    }
}

fn subscribe(own: [PortId; 2]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    SockRef::from(&socket).attach_filter(&all_but(own))?;
    // The kernel doubles it. Where only root of the whole host may, the default is what there is.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    socket.bind_auto()?;
    socket.add_membership(GROUP_NFTABLES)?;
    Ok(socket)
}

/// Drops what begins with a message whose nlmsg_pid is one of these. All notifications of a transaction carry that of
/// the socket that made it.
fn all_but(own: [PortId; 2]) -> [SockFilter; 5] {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K (include/uapi/linux/bpf_common.h)
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// The place of nlmsg_pid in struct nlmsghdr (include/uapi/linux/netlink.h).
    const NLMSG_PID: u32 = 12;
    // The filter loads big-endian, netlink writes as the machine does.
    let [one, other] = own.map(|own| u32::from_be_bytes(own.number().to_ne_bytes()));
    [
        SockFilter::new(LOAD, 0, 0, NLMSG_PID),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, one),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, other),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::notice::Touched, *};

    fn sighting(since: u64, author: Option<&str>, touched: &[(Object, &str, Deed)]) -> Sighting {
        let touched = touched.iter().map(|(object, name, deed)| Touched {
            object: *object,
            name: (*name).to_owned(),
            deed: *deed,
        });
        Sighting {
            since: Uptime::from_millis(since),
            author: author.map(|program| Author { process: 7, program: program.to_owned() }),
            notice: Notice { touched: touched.collect(), ..Notice::default() },
            put_in: None,
        }
    }

    #[test]
    fn what_is_seen_twice_is_kept_once_since_the_first_time_with_the_last_author() {
        let rule = (Object::Rule, "gate", Deed::Deleted);
        let mut seen = sighting(5, Some("ufw"), &[rule]);
        seen.merge(sighting(9, Some("nft"), &[rule, (Object::Table, "", Deed::Deleted)]));
        seen.merge(Sighting::missed(Uptime::from_millis(11)));
        assert_eq!(seen.since, Uptime::from_millis(5));
        assert_eq!(seen.author.as_ref().unwrap().program, "nft");
        assert_eq!(seen.notice.touched.len(), 2);
        assert!(seen.notice.incomplete && seen.deleted_table());
    }

    #[test]
    fn who_puts_in_again_what_another_one_deleted_is_not_told_as_the_one_who_did_it() {
        let mut seen = sighting(5, Some("ufw"), &[(Object::Table, "", Deed::Deleted)]);
        seen.merge(sighting(9, Some("nft"), &[(Object::Table, "", Deed::Added)]));
        assert_eq!(seen.author.unwrap().program, "ufw");
    }

    #[test]
    fn a_table_that_one_transaction_deletes_and_then_adds_was_never_away() {
        const DELETED: (Object, &str, Deed) = (Object::Table, "", Deed::Deleted);
        const ADDED: (Object, &str, Deed) = (Object::Table, "", Deed::Added);
        let replaced = sighting(5, Some("nft"), &[DELETED, ADDED]).concluded();
        assert!(replaced.replaced_table() && !replaced.deleted_table());
        for touched in [&[DELETED][..], &[ADDED], &[ADDED, DELETED]] {
            assert!(!sighting(5, None, touched).concluded().replaced_table(), "{touched:?}");
        }
        // Two transactions: it was away in between.
        let mut seen = sighting(5, None, &[DELETED]).concluded();
        seen.merge(sighting(6, None, &[ADDED]).concluded());
        assert!(seen.deleted_table() && !seen.replaced_table());
        let mut seen = sighting(5, None, &[DELETED, ADDED]).concluded();
        seen.merge(sighting(6, None, &[(Object::Rule, "gate", Deed::Added)]));
        assert!(seen.deleted_table() && !seen.replaced_table());
        // What was missed may have been a deletion.
        let mut seen = sighting(5, None, &[DELETED, ADDED]);
        seen.notice.incomplete = true;
        assert!(seen.concluded().deleted_table());
    }

    #[test]
    fn what_touched_elements_alone_is_told_from_what_touched_more() {
        let element = (Object::Element, "tags", Deed::Added);
        let elements = sighting(1, None, &[element]);
        assert!(elements.elements_alone() && elements.touched_elements_of("tags"));
        assert!(!elements.touched_elements_of("door4"));
        assert!(
            !sighting(1, None, &[element, (Object::Set, "tags", Deed::Added)]).elements_alone()
        );
        assert!(!Sighting::missed(Uptime::from_millis(1)).elements_alone());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn where_the_kernel_allows_no_watch_the_table_is_to_be_looked_at_all_the_same() {
        let refused = Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let reflex = Reflex::new(Ready::default()).unwrap();
        let watch = Watch::start_with(refused, reflex.port_id(), reflex).unwrap();
        let sighting = watch.sighted().await;
        assert!(sighting.may_concern_all_elements() && !sighting.elements_alone());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_told_before_anybody_waits_is_not_lost() {
        let watch = Watch { seen: Arc::default() };
        assert_eq!(watch.take(), None);
        watch.seen.tell(Sighting::missed(Uptime::from_millis(3)));
        assert_eq!(watch.sighted().await.since, Uptime::from_millis(3));
        assert_eq!(watch.take(), None);
    }
}
