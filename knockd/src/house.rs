//! What is to be done between packets: the tags of another day, in the directory and in the kernel, in
//! steps that no knock waits for; and a look at what the kernel has dropped.

use std::time::Duration;

use tracing::{error, warn};

use crate::{
    admission::Admission,
    clock,
    firewall::{Firewall, FirewallError},
    gate::directory::{ClientId, Progress, TagCollision},
    listener::Listener,
    tags::{TagKeeper, Upkeep},
};

/// Between two looks at the clock, which may have been stepped to another day. The runtime's timer wheel
/// makes three wakeups of it. Less than the margin that tags go in ahead of their day.
const AT_REST: Duration = Duration::from_mins(5);
/// Between two steps of a larger work.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);
/// Tags made in one step: about a millisecond's work.
const TAGS_PER_STEP: usize = 1_000;

/// The state of what is to be done between packets.
pub struct Housekeeping {
    /// `None` where the kernel doesn't filter by tags.
    tags: Option<TagKeeper>,
    dropped: u64,
}

impl Housekeeping {
    /// With the upkeep of the kernel's set of tags, where it filters by them.
    #[must_use]
    pub const fn new(tags: Option<TagKeeper>) -> Self {
        Self { tags, dropped: 0 }
    }

    /// Lets all tags that are needed now past the kernel's filter.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn let_all_tags_in<F: Firewall>(
        &mut self,
        admission: &mut Admission<F>,
    ) -> Result<(), FirewallError> {
        let Some(keeper) = &mut self.tags else { return Ok(()) };
        while admission.keep_tags(keeper, clock::now())? == Upkeep::More {}
        Ok(())
    }

    /// Lets the tags of clients that are new or have new keys past the kernel's filter.
    ///
    /// # Errors
    /// [`FirewallError`]
    pub fn let_tags_in<F: Firewall>(
        &mut self,
        admission: &mut Admission<F>,
        clients: &[ClientId],
    ) -> Result<(), FirewallError> {
        match &mut self.tags {
            Some(keeper) => admission.let_tags_in(keeper, clients, clock::now()),
            None => Ok(()),
        }
    }

    /// Has all tags put in again, in the steps that [`Self::keep`] makes: somebody has emptied the set.
    pub fn put_tags_in_again(&mut self) {
        if let Some(keeper) = &mut self.tags {
            keeper.forget();
        }
    }

    /// Does a step of what there is to do; returns after which time the next one is due.
    pub fn keep<F: Firewall>(
        &mut self,
        admission: &mut Admission<F>,
        listener: &Listener,
    ) -> Duration {
        self.report_drops(listener);
        let directory = prepare(admission, TAGS_PER_STEP);
        let kernel = self.keep_tags(admission);
        match (directory, kernel) {
            (Progress::Complete, Upkeep::Done) => AT_REST,
            _ => BETWEEN_STEPS,
        }
    }

    fn keep_tags<F: Firewall>(&mut self, admission: &mut Admission<F>) -> Upkeep {
        let Some(keeper) = &mut self.tags else { return Upkeep::Done };
        admission.keep_tags(keeper, clock::now()).unwrap_or_else(|error| {
            error!("tags of clients could not be let past the kernel's filter: {error}");
            Upkeep::Done
        })
    }

    fn report_drops(&mut self, listener: &Listener) {
        let dropped = match listener.dropped() {
            Ok(dropped) => dropped,
            Err(error) => {
                error!("the kernel's count of dropped datagrams can't be read: {error}");
                return;
            }
        };
        if dropped > self.dropped {
            warn!(
                dropped = dropped - self.dropped,
                "datagrams were lost because the receive buffer was full, knocks among them perhaps"
            );
        }
        self.dropped = dropped;
    }
}

/// Makes today's tags in the directory at once: without them every packet is junk.
pub fn prepare_today<F: Firewall>(admission: &mut Admission<F>) {
    let clients = admission.gate().directory().places();
    // Tags of the days beside it are made in steps.
    let _ = prepare(admission, clients);
}

fn prepare<F: Firewall>(admission: &mut Admission<F>, budget: usize) -> Progress {
    let mut collisions = Vec::new();
    let progress = admission.gate_mut().prepare(clock::now().utc, budget, &mut collisions);
    for TagCollision { day, first, second } in collisions {
        error!(
            client = %second,
            "it has the same tag as {first} on day {}: its packets are refused that day; a new key for it helps at once",
            day.number()
        );
    }
    progress
}
