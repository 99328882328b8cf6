//! What is to be done between packets: the tags of another day, in the directory and in the kernel, in
//! steps that no knock waits for; a look at what the kernel has dropped; and what follows when the clock is set.

use std::{io, time::Duration};

use common::Timestamp;
use tracing::{debug, error, info, warn};

use crate::{
    admission::{Admission, KernelState},
    clock,
    firewall::{Firewall, FirewallError},
    gate::{
        clock::{ClockStep, Now, StepDetector},
        directory::{ClientId, Progress, TagCollision},
        policy::ClockSkew,
        replay::Floor,
    },
    journal::seen,
    listener::Listener,
    tags::{TagKeeper, Upkeep},
    telemetry,
};

/// Between two looks at the clock, which may have been stepped to another day. The runtime's timer wheel
/// makes three wakeups of it. Less than the margin that tags go in ahead of their day.
const AT_REST: Duration = Duration::from_mins(5);
/// Between two steps of a larger work.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);
/// Tags made in one step: about a millisecond's work.
const TAGS_PER_STEP: usize = 1_000;

/// How often the clock was set while the daemon runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSteps {
    /// How often.
    pub count: u64,
    /// The last time: by how much, and what the clock showed then.
    pub last: Option<(ClockStep, Timestamp)>,
}

/// The state of what is to be done between packets.
pub struct Housekeeping {
    /// `None` where the kernel doesn't filter by tags.
    tags: Option<TagKeeper>,
    steps: StepDetector,
    steps_seen: ClockSteps,
    dropped: u64,
    /// Why the state folder can't be written, while that is so.
    unwritten: Option<io::ErrorKind>,
}

impl Housekeeping {
    /// With the upkeep of the kernel's set of tags, where it filters by them. `now` is when the past was taken
    /// up: the clock is compared with it.
    #[must_use]
    pub const fn new(tags: Option<TagKeeper>, now: Now) -> Self {
        let steps_seen = ClockSteps { count: 0, last: None };
        Self { tags, steps: StepDetector::new(now), steps_seen, dropped: 0, unwritten: None }
    }

    /// How often the clock was set.
    #[must_use]
    pub const fn clock_steps(&self) -> ClockSteps {
        self.steps_seen
    }

    /// Looks whether the clock was set, and if so has everything follow it that goes by it, at once: to be
    /// called before anything is decided by this time.
    pub fn look_at_clock<F: Firewall>(
        &mut self,
        admission: &mut Admission<F>,
        now: Now,
    ) -> Option<ClockStep> {
        let step = self.steps.look(now)?;
        self.steps_seen =
            ClockSteps { count: self.steps_seen.count + 1, last: Some((step, now.utc)) };
        tell(step, now, admission);
        end_grants(now, admission);
        prepare_today(admission);
        if let Some(keeper) = &mut self.tags {
            keeper.clock_was_stepped(now);
        }
        if let Err(error) = self.let_all_tags_in(admission) {
            error!(
                event = "tags-failed",
                "tags of clients could not be let past the kernel's filter: {error}"
            );
        }
        if let Err(error) = admission.write_floor(now) {
            error!(
                event = "state-unwritten",
                "the file of accepted packets can't be written: {error}; it is again with the next packet that is accepted"
            );
        }
        if let Err(error) = admission.restamp_bans(now) {
            error!(
                event = "state-unwritten",
                "the file of bans can't be written: {error}; after a reboot they end by the clock as it was"
            );
        }
        Some(step)
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

    /// Whether the kernel's set of tags is kept.
    #[must_use]
    pub const fn keeps_tags(&self) -> bool {
        self.tags.is_some()
    }

    /// Begins to keep the kernel's set of tags, and lets all that are needed now past its filter: before it
    /// filters by them.
    ///
    /// # Errors
    /// [`FirewallError`]; then it isn't kept.
    pub fn begin_to_keep_tags<F: Firewall>(
        &mut self,
        skew: ClockSkew,
        admission: &mut Admission<F>,
    ) -> Result<(), FirewallError> {
        self.tags = Some(TagKeeper::new(skew));
        self.let_all_tags_in(admission).inspect_err(|_| self.stop_keeping_tags())
    }

    /// Keeps the kernel's set of tags no longer. What is in it ends by itself.
    pub fn stop_keeping_tags(&mut self) {
        self.tags = None;
    }

    /// Goes by this skew from here on.
    pub fn follow(&mut self, skew: ClockSkew, now: Now) {
        if let Some(keeper) = &mut self.tags {
            keeper.follow(skew, now);
        }
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
        self.look_at_clock(admission, clock::now());
        self.report_drops(listener);
        settle(admission);
        self.keep_files(admission);
        admission.keep_ceiling(clock::now());
        let directory = prepare(admission, TAGS_PER_STEP);
        let kernel = self.keep_tags(admission);
        match (directory, kernel) {
            (Progress::Complete, Upkeep::Done) => AT_REST,
            _ => BETWEEN_STEPS,
        }
    }

    fn keep_files<F: Firewall>(&mut self, admission: &mut Admission<F>) {
        let failure = admission.keep_files().err();
        let kind = failure.as_ref().map(io::Error::kind);
        // Told once: this may be tried many times a second.
        if kind == self.unwritten {
            return;
        }
        self.unwritten = kind;
        match failure {
            Some(error) => error!(
                event = "state-unwritten",
                "the state folder can't be written: {error}; a restart may find grants and bans as they were"
            ),
            None => info!(
                event = "state-written",
                "the state folder is written again, and nothing is missing in it"
            ),
        }
    }

    fn keep_tags<F: Firewall>(&mut self, admission: &mut Admission<F>) -> Upkeep {
        let Some(keeper) = &mut self.tags else { return Upkeep::Done };
        admission.keep_tags(keeper, clock::now()).unwrap_or_else(|error| {
            error!(
                event = "tags-failed",
                "tags of clients could not be let past the kernel's filter: {error}"
            );
            Upkeep::Done
        })
    }

    fn report_drops(&mut self, listener: &Listener) {
        let dropped = match listener.dropped() {
            Ok(dropped) => dropped,
            Err(error) => {
                error!(
                    event = "drops-unknown",
                    "the kernel's count of dropped datagrams can't be read: {error}"
                );
                return;
            }
        };
        if dropped > self.dropped {
            warn!(
                dropped = dropped - self.dropped,
                event = "datagrams-lost",
                "datagrams were lost because the receive buffer was full, knocks among them perhaps"
            );
        }
        self.dropped = dropped;
    }
}

/// Tells that the clock was set, and what that means for whom.
fn tell<F: Firewall>(step: ClockStep, now: Now, admission: &Admission<F>) {
    let direction = if step.by_ms < 0 { "back" } else { "ahead" };
    // To the nearest second: the two clocks aren't read at the very same time.
    let seconds = step.by_ms.unsigned_abs().saturating_add(500) / 1000;
    warn!(
        step_ms = step.by_ms,
        event = "clock-set",
        "the clock was set {direction} by {seconds} s, to {}: packets are judged by it from now on, and devices \
         whose clocks differ from it are stale; grants and bans end when they would have, or with their clients' entries",
        telemetry::rfc3339(now.utc)
    );
    if let Some(stamp) = admission.gate().shut_until(now) {
        warn!(
            event = "shut-until",
            "nobody gets in before {}: packets stamped up to then were accepted, and not all are remembered. If the \
             clock was ahead by mistake and that is too long: stop knockd, remove {} from its state folder, start it",
            telemetry::rfc3339(stamp),
            seen::FILE_NAME
        );
    }
}

/// Has everything refused that may have been accepted since the snapshot was taken from which this machine goes on.
pub fn lose_what_came_since_a_snapshot<F: Firewall>(admission: &mut Admission<F>) {
    let now = clock::now();
    let lost = Floor::lost(now, admission.gate().skew());
    let written = admission.lose(lost, now);
    let bound = admission.gate().replay().refused_up_to(now).map(telemetry::rfc3339);
    warn!(
        event = "memory-lost",
        "this machine goes on from a snapshot: nothing stamped at or before {} is accepted, by the clock as it will be when it is right. \
         Devices without a clock may have gone on since (knockd client resync)",
        bound.unwrap_or_default()
    );
    if let Err(error) = written {
        error!(
            event = "state-unwritten",
            "the file of accepted packets can't be written: {error}; it is again with the next packet that is accepted"
        );
    }
}

/// Ends grants that the entries of their clients no longer allow by the clock as it was set.
fn end_grants<F: Firewall>(now: Now, admission: &mut Admission<F>) {
    let before = admission.grants().owners().len();
    if let Err(error) = admission.follow_the_clock(now) {
        error!(
            event = "grants-in-doubt",
            "the kernel has not shut doors of clients whose entries have ended, and is asked again: {error}"
        );
    }
    let grants_ended = before - admission.grants().owners().len();
    if grants_ended > 0 {
        warn!(
            event = "grants-ended",
            grants_ended,
            "by the clock as it was set, entries of clients have ended: {grants_ended} grants with them"
        );
    }
}

/// Makes the kernel's elements what they ought to be, if a change of them was not confirmed.
fn settle<F: Firewall>(admission: &mut Admission<F>) {
    if admission.kernel() == KernelState::Known {
        return;
    }
    match admission.settle(clock::now()) {
        // It is told when that is done.
        Ok(None) => {}
        Ok(Some(changed)) => {
            warn!(
                changed,
                event = "kernel-settled",
                "what the kernel had refused is settled: its doors and bans are as they ought to be"
            );
        }
        // What was refused has been told.
        Err(error) => debug!(
            event = "kernel-unsettled",
            "what the kernel had refused can't be settled yet: {error}"
        ),
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
            event = "tag-collision",
            "it has the same tag as {first} on day {}: its packets are refused that day; a new key for it helps at once",
            day.number()
        );
    }
    progress
}
