//! The door mends itself: whoever takes the kernel's table out or changes it, the daemon puts it right again,
//! doors and tags included, and tells what was wrong and for how long.
//!
//! [`Mender`] is the kernel as the daemon uses it. When the watch has seen something, [`mend`] looks; a
//! change of elements that finds the table gone has it put in at once, and [`mend`] does the rest.
//!
//! Each repair is one event at warn:
//!
//! | field | content |
//! | --- | --- |
//! | `missing` | what was missing or changed |
//! | `by` | who did that: the program's name and the process, as the kernel numbers it |
//! | `since` | when it was seen, RFC 3339 in UTC |
//! | `open_ms` | how long it stood so, in milliseconds: the door was open for no longer |
//! | `repair` | which repair it is since the daemon started |
//!
//! # Security considerations
//! - Nothing that a notification says is relied on but that there was one: what is compared is the kernel's
//!   table with the one that ought to be there, and its doors with the live grants.
//! - Whoever connected meanwhile is kept out by the table itself, which lets live on only who came by a door
//!   ([`crate::firewall::ruleset`]). A door that somebody else opened gives its connections that right, too:
//!   they are ended with it, unless it came with a whole table, of which nobody can tell them from older ones.
//! - A tool that keeps changing the table is followed at a bounded rate, and told of.

mod case;
mod connections;

use std::{io, num::NonZeroU32, time::Duration};

use common::{Tag, Timestamp};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use self::{case::Case, connections::through};
use crate::{
    admission::Admission,
    clock,
    firewall::{
        Firewall, FirewallError,
        connections::{Guarded, Sweeper},
        kernel::Kernel,
        notice::Author,
        ruleset::{Ruleset, TABLE, Tags},
        table::{self, TableState},
        watch::{Sighting, Watch},
    },
    gate::{
        bans::{BanChange, BanKind},
        clock::{Now, Uptime},
        grants::{Change, Door},
        source::Source,
    },
    house::Housekeeping,
    local::NeverBanned,
    reconcile::Reconciled,
    telemetry::rfc3339,
};

/// Looks at the table at once, and beyond that one a second: each takes some milliseconds in which no packet
/// is dealt with. A repair makes notifications too, and so takes two.
const LOOKS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
const LOOKS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A tool that keeps changing the table is told of this often.
const BETWEEN_COMPLAINTS: Duration = Duration::from_mins(1);
/// How long after a failure it is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Up to so many doors go in with the table, so that no client that holds one finds it shut meanwhile.
const DOORS_WITH_THE_TABLE: usize = 1_000;

/// What was put right so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How often, since the daemon started.
    pub count: u64,
    /// The last time.
    pub last: Option<Repair>,
    /// Why it can't be done now, while that is so.
    pub failing: Option<String>,
}

/// Something that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What was missing or changed, in words.
    pub missing: String,
    /// Who did that, if the kernel said.
    pub by: Option<Author>,
    /// When it was seen.
    pub since: Timestamp,
    /// How long it stood so, and the door perhaps open.
    pub open_for: Duration,
}

/// The kernel's doors, and the table around them kept as it ought to be.
pub struct Mender {
    kernel: Kernel,
    ruleset: Ruleset,
    newer: Newer,
    watch: Watch,
    sweeper: Sweeper,
    looks: DefaultDirectRateLimiter,
    /// What is to be looked at, and what was found already.
    case: Option<Case>,
    not_before: Instant,
    retry_after: Duration,
    complained: Option<Instant>,
    repairs: Repairs,
}

/// The table that follows from the configuration's file as it is now; `None` if that is the one that is in force,
/// or is no good.
pub type Newer = Box<dyn Fn() -> Option<Ruleset>>;

impl Mender {
    /// A mender of a table that is whole now, and watched already.
    #[must_use]
    pub fn new(
        kernel: Kernel,
        ruleset: Ruleset,
        newer: Newer,
        watch: Watch,
        sweeper: Sweeper,
    ) -> Self {
        let quota = Quota::per_second(LOOKS_PER_SECOND).allow_burst(LOOKS_AT_ONCE);
        Self {
            kernel,
            ruleset,
            newer,
            watch,
            sweeper,
            looks: RateLimiter::direct(quota),
            case: None,
            not_before: Instant::now(),
            retry_after: FIRST_RETRY,
            complained: None,
            repairs: Repairs::default(),
        }
    }

    /// What was put right so far.
    #[must_use]
    pub const fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// Puts another table in place of the one that is kept so far, and keeps that from here on; connections that
    /// stand and need a door by it for the first time are ended soon. Says whether the tags in it are kept.
    ///
    /// # Errors
    /// [`FirewallError`]; then it is the former one that is kept, as before.
    pub fn follow(
        &mut self,
        ruleset: Ruleset,
        newer: Newer,
        guarded: Guarded,
    ) -> Result<Tags, FirewallError> {
        let changes = ruleset != self.ruleset;
        let tags = match changes {
            true => table::replace(&self.ruleset, &ruleset)?,
            false => Tags::Kept,
        };
        (self.ruleset, self.newer) = (ruleset, newer);
        self.sweeper.guard(guarded);
        if changes {
            self.end_what_came_by_no_door();
        }
        Ok(tags)
    }

    /// Whether the table is as it ought to be, as far as the daemon knows: nothing was found missing of it that
    /// isn't put right yet.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.repairs.failing.is_none()
            && self.case.as_ref().is_none_or(|case| case.missing.is_empty())
    }

    /// Waits until [`mend`] is to be called. Nothing is lost if it is dropped.
    pub async fn due(&mut self) {
        if self.case.is_none() {
            self.case = Some(Case::of(self.watch.sighted().await));
        }
        sleep_until(self.not_before).await;
    }

    /// The case, with all that was seen until now.
    fn open_case(&mut self) -> &mut Case {
        let seen = self.watch.take();
        let case = self.case.get_or_insert_with(|| Case::of(Sighting::missed(clock::now().uptime)));
        if let Some(seen) = seen {
            case.sighting.merge(seen);
        }
        case
    }

    fn may_look(&mut self) -> bool {
        if self.looks.check().is_ok() {
            return true;
        }
        let now = Instant::now();
        // Knocks that ask in between don't put it off.
        if self.not_before <= now {
            self.not_before = now + BETWEEN_LOOKS;
        }
        if self.complained.is_none_or(|last| now - last >= BETWEEN_COMPLAINTS) {
            self.complained = Some(now);
            let author = self.open_case().sighting.author.clone();
            let by = shown(author.as_ref());
            error!(
                %by, repairs = self.repairs.count, event = "table-unrest",
                "table {TABLE} keeps being changed by {by}: put right {} times so far, from now on at most once a second, and open in between; stop what does it (`nft monitor` shows it at work)",
                self.repairs.count
            );
        }
        false
    }

    /// Puts the table in again if it isn't as it ought to be, these doors with it.
    fn look(&mut self, doors: &[(Door, Duration)]) -> Result<(), FirewallError> {
        // What is seen from here on is left to the next look: it may be later than what this one finds.
        self.open_case();
        let mut state = self.state()?;
        if matches!(state, TableState::Changed(_)) && self.adopt_newer()? {
            state = TableState::Whole;
        }
        let Some(case) = &mut self.case else { return Ok(()) };
        let missing = match state {
            TableState::Whole if case.lost_its_table() => {
                case.miss("the whole table, which somebody else has put in again".to_owned());
                return Ok(());
            }
            TableState::Whole => return Ok(()),
            TableState::Missing => vec!["the whole table".to_owned()],
            TableState::Changed(differences) => differences,
        };
        missing.into_iter().for_each(|missing| case.miss(missing));
        table::put_in(&self.ruleset, doors)?;
        let shut = clock::now().uptime;
        case.shut = None;
        table::read_back_or_replace(&self.ruleset, doors)?;
        case.shut = Some(shut);
        Ok(())
    }

    fn state(&mut self) -> Result<TableState, FirewallError> {
        // If it was deleted, one question to the kernel takes microseconds, and running nft milliseconds.
        let was_deleted = self.case.as_ref().is_some_and(|case| case.sighting.deleted_table());
        match was_deleted.then(|| self.kernel.doors()) {
            Some(Err(error)) if error.says_not_there() => Ok(TableState::Missing),
            _ => table::state(&self.ruleset),
        }
    }

    /// Takes a table for right that an admin has put in after changing the configuration (`knockd firewall
    /// install`). Whether it is that.
    fn adopt_newer(&mut self) -> Result<bool, FirewallError> {
        let Some(newer) = (self.newer)() else { return Ok(false) };
        let is_in = table::state(&newer)? == TableState::Whole;
        if is_in && newer != self.ruleset {
            info!(
                event = "table-followed",
                "table {TABLE} follows the configuration as it is now: kept so from here on"
            );
            self.ruleset = newer;
        }
        Ok(is_in)
    }

    /// Puts a table in that is gone, in between two steps of somebody who is changing its elements. Whether
    /// it is in.
    fn put_in_again(&mut self) -> bool {
        self.open_case();
        if !self.may_look() {
            return false;
        }
        match self.look(&[]) {
            Ok(()) => true,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn or_with_a_new_table<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Kernel) -> Result<T, FirewallError>,
    ) -> Result<T, FirewallError> {
        match attempt(&mut self.kernel) {
            Err(error) if error.says_not_there() && self.put_in_again() => {
                attempt(&mut self.kernel)
            }
            result => result,
        }
    }

    fn fail(&mut self, error: &FirewallError) {
        self.repairs.failing = Some(error.to_string());
        // Somebody was quicker: at once again, as often as looks are allowed.
        if error.says_not_there() || matches!(error, FirewallError::ReadBack(_)) {
            debug!(
                event = "table-changed-again",
                "table {TABLE} was changed again while it was put right: {error}"
            );
            return;
        }
        self.not_before = Instant::now() + self.retry_after;
        error!(
            event = "table-failed",
            "table {TABLE} can't be put right: {error}; what it guards may be open; tried again in {} s",
            self.retry_after.as_secs()
        );
        self.retry_after = (self.retry_after * 2).min(LAST_RETRY);
    }

    /// Ends a case in which everything is right again, and tells what was not.
    fn close(&mut self, reconciled: Reconciled, now: Now) {
        let Some(mut case) = self.case.take() else { return };
        self.retry_after = FIRST_RETRY;
        self.repairs.failing = None;
        let ends_strays = case.sighting.elements_alone();
        case.add(&reconciled);
        if case.missing.is_empty() {
            tell_whole(&case.sighting);
            return;
        }
        self.end_what_came_by_no_door();
        if ends_strays && !reconciled.stray.is_empty() {
            let strays = reconciled.stray.into_iter().collect();
            self.end_connections(through(strays, "through doors that nobody held"));
        }
        let repair = Repair {
            missing: case.missing.join("; "),
            by: case.sighting.author,
            since: now.utc_of(case.sighting.since),
            open_for: case.shut.unwrap_or(now.uptime).since(case.sighting.since),
        };
        self.repairs.count += 1;
        tell(&repair, self.repairs.count);
        self.repairs.last = Some(repair);
    }
}

impl Firewall for Mender {
    fn apply(&mut self, changes: &[Change], now: Uptime) -> Result<(), FirewallError> {
        self.or_with_a_new_table(|kernel| kernel.apply(changes, now))
    }

    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError> {
        self.or_with_a_new_table(|kernel| kernel.admit_tags(tags))
    }

    fn doors(&mut self) -> Result<Vec<(Door, Duration)>, FirewallError> {
        self.or_with_a_new_table(Kernel::doors)
    }

    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError> {
        self.or_with_a_new_table(|kernel| kernel.ban(changes, now))
    }

    fn bans(&mut self) -> Result<Vec<(Source, BanKind, Duration)>, FirewallError> {
        self.or_with_a_new_table(Kernel::bans)
    }

    fn own_addresses(&mut self) -> io::Result<NeverBanned> {
        self.kernel.own_addresses()
    }
}

/// Looks at the table and puts right what is not as it ought to be: the table itself first, then its doors; its
/// tags go in again in the steps that housekeeping makes from then on.
pub fn mend(admission: &mut Admission<Mender>, house: &mut Housekeeping) {
    if !admission.firewall_mut().may_look() {
        return;
    }
    let doors = live_doors(admission, clock::now().uptime);
    let looked = admission.firewall_mut().look(&doors);
    let reconciled = looked.and_then(|()| admission.reconcile(clock::now()));
    let mender = admission.firewall_mut();
    match reconciled {
        Ok(reconciled) => {
            if mender.case.as_ref().is_some_and(Case::may_lack_tags) {
                house.put_tags_in_again();
            }
            mender.close(reconciled, clock::now());
        }
        Err(error) => mender.fail(&error),
    }
}

/// The doors that are to be open, and for how long yet; none if they are too many to go in with the table.
fn live_doors(admission: &Admission<Mender>, now: Uptime) -> Vec<(Door, Duration)> {
    let doors = admission.grants().doors();
    if doors.len() > DOORS_WITH_THE_TABLE {
        return Vec::new();
    }
    doors
        .filter(|(_, until)| **until > now)
        .map(|(door, until)| (*door, until.since(now)))
        .collect()
}

fn tell(Repair { missing, by, since, open_for }: &Repair, repair: u64) {
    let (by, since) = (shown(by.as_ref()), rfc3339(*since));
    let open_ms = u64::try_from(open_for.as_millis()).unwrap_or(u64::MAX);
    warn!(
        %missing, %by, %since, open_ms, repair, event = "table-repaired",
        "table {TABLE} is put right, {open_ms} ms after it was changed by {by}; it lacked: {missing}"
    );
}

fn tell_whole(sighting: &Sighting) {
    if sighting.replaced_table() {
        let by = shown(sighting.author.as_ref());
        info!(
            %by, event = "table-replaced",
            "table {TABLE} was put in anew by {by} in one transaction, and is whole: no port showed"
        );
        return;
    }
    debug!(event = "table-whole", "somebody has changed nftables, and table {TABLE} is whole");
}

fn shown(author: Option<&Author>) -> String {
    author.map_or_else(|| "somebody unknown".to_owned(), Author::to_string)
}
