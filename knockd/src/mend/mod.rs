//! The door mends itself: whoever takes the kernel's table out or changes it, the daemon puts it right again,
//! doors and tags included, and tells what was wrong and for how long.
//!
//! [`Mender`] is the kernel as the daemon uses it. When the watch has seen something, [`mend`] looks; a
//! change of elements that finds the table gone has it put in at once, and [`mend`] does the rest. Looking and putting
//! in takes milliseconds and no program, whatever is in the sets: elements that were touched are known from the watch,
//! and a large set is put in again (module `refill`) rather than read.
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

mod adopt;
mod case;
mod connections;
mod refill;

use std::{future::pending, io, mem, num::NonZeroU32, sync::Arc, time::Duration};

use common::{Tag, Timestamp};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use self::{adopt::Adopting, case::Case, connections::through, refill::Refill};
pub use self::{adopt::Newer, refill::refill};
use crate::{
    admission::Admission,
    clock,
    firewall::{
        BanLeft, Firewall, FirewallError,
        connections::{Guarded, Sweeper},
        kernel::{KEPT, Kernel, elements_of},
        listing::Listing,
        netlink::Element,
        notice::Author,
        ruleset::{Ruleset, TABLE, TAGS, Tags},
        table::{self, TableState},
        template::Template,
        watch::{Sighting, Watch},
    },
    gate::{
        bans::BanChange,
        clock::{Now, Uptime},
        grants::{Change, Door},
    },
    house::Housekeeping,
    local::NeverBanned,
    reconcile::{Reconciled, live_bans, live_doors},
    telemetry::rfc3339,
};

/// Looks at the table at once, and beyond that one a second: each takes a millisecond or a few in which no packet is
/// dealt with.
const LOOKS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
const LOOKS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A tool that keeps changing the table is told of this often.
const BETWEEN_COMPLAINTS: Duration = Duration::from_mins(1);
/// How long after a failure it is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Up to so many doors and bans go in with the table, so that no client that holds one finds it shut meanwhile.
const WITH_THE_TABLE: usize = 1_000;
/// Sets that are too large to be read are put in anew this often at most, however often something may have been missed.
const BETWEEN_REFILLS: Duration = Duration::from_mins(1);
/// Where somebody else has changed nftables while the kernel told nobody, it is to tell of everything for so long.
/// So many elements are changed without a notification of each: more than a batch of knocks has.
const MANY: usize = 512;
const LOUD_FOR: Duration = Duration::from_mins(10);

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
    template: Template,
    newer: Newer,
    adopting: Option<Adopting>,
    adopted: Option<Template>,
    watch: Watch,
    sweeper: Sweeper,
    looks: DefaultDirectRateLimiter,
    /// What is to be looked at, and what was found already.
    case: Option<Case>,
    refill: Option<Refill>,
    /// When the sets were emptied last because they were too much to be read, and when that is to be done again.
    emptied_at: Option<Instant>,
    anew_at: Option<Instant>,
    not_before: Instant,
    retry_after: Duration,
    complained: Option<Instant>,
    /// Until when the kernel is to tell of every element, because somebody else is busy as well.
    loud_until: Instant,
    repairs: Repairs,
}

impl Mender {
    /// A mender of a table that is whole now, and watched already.
    #[must_use]
    pub fn new(
        kernel: Kernel,
        template: Template,
        newer: Newer,
        watch: Watch,
        sweeper: Sweeper,
    ) -> Self {
        let quota = Quota::per_second(LOOKS_PER_SECOND).allow_burst(LOOKS_AT_ONCE);
        watch.keep(&template);
        Self {
            kernel,
            template,
            newer,
            adopting: None,
            adopted: None,
            watch,
            sweeper,
            looks: RateLimiter::direct(quota),
            case: None,
            refill: None,
            emptied_at: None,
            anew_at: None,
            not_before: Instant::now(),
            retry_after: FIRST_RETRY,
            complained: None,
            loud_until: Instant::now(),
            repairs: Repairs::default(),
        }
    }

    /// What was put right so far.
    #[must_use]
    pub const fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// The ruleset that is kept.
    #[must_use]
    pub const fn ruleset(&self) -> &Ruleset {
        self.template.ruleset()
    }

    /// Puts another table in place of the one that is kept so far, and keeps that from here on; connections that
    /// stand and need a door by it for the first time are ended soon. No template: the table stays the same one. Says
    /// whether the tags in it are kept.
    ///
    /// # Errors
    /// [`FirewallError`]; then it is the former one that is kept, as before.
    pub fn follow(
        &mut self,
        template: Option<Template>,
        newer: Newer,
        guarded: Guarded,
    ) -> Result<Tags, FirewallError> {
        let changes = template.is_some();
        let mut tags = Tags::Kept;
        if let Some(template) = template {
            let found = self.kernel.table(template.ruleset())?;
            let emptied = template.emptied(found.as_ref());
            self.kernel.put_in(&template, found.as_ref(), &[])?;
            self.watch.keep(&template);
            self.template = template;
            if emptied.contains(&TAGS) {
                tags = Tags::Gone;
            }
            if emptied.iter().any(|set| keeps_doors_or_bans(set)) {
                self.open_case().emptied = true;
            }
        }
        self.newer = newer;
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
        if let Some(adopting) = &mut self.adopting {
            tokio::select! {
                adopted = adopting => {
                    (self.adopting, self.adopted) = (None, adopted.ok().flatten());
                }
                sighting = self.watch.sighted() => match &mut self.case {
                    Some(case) => case.sighting.merge(sighting),
                    None => self.case = Some(Case::of(sighting)),
                },
            }
            return;
        }
        if self.case.is_none() {
            let anew_at = self.anew_at;
            let is_time = async {
                match anew_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                sighting = self.watch.sighted() => self.case = Some(Case::of(sighting)),
                () = is_time => {
                    self.anew_at = None;
                    self.open_case();
                }
            }
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

    /// Puts the table in again if it isn't as it ought to be, with what `elements` gives of the sets that are to be made
    /// anew.
    fn look(
        &mut self,
        elements: impl FnOnce() -> (Vec<Vec<Element>>, Complete),
    ) -> Result<Looked, FirewallError> {
        // What is seen from here on is left to the next look: it may be later than what this one finds.
        self.open_case().note_what_was_put_in();
        // Who has deleted it, and its sets with it, takes the kernel's lock again in a moment to tidy up, for as long as that
        // takes: nothing is asked then that is known.
        let is_gone = self.case.as_ref().is_some_and(Case::saw_its_table_go);
        let found = match is_gone {
            true => None,
            false => self.kernel.table(self.template.ruleset())?,
        };
        if let Some(found) = &found {
            let adopted = self.adopted.take();
            self.adopt(adopted, found);
        }
        let state = table::compare(&self.template, found.as_ref());
        if let (TableState::Changed(_), Some(found)) = (&state, &found)
            && self.begins_to_adopt(found)
        {
            return Ok(Looked::Later);
        }
        let Some(case) = &mut self.case else { return Ok(Looked::Done) };
        let missing = match state {
            TableState::Whole if case.lost_its_table() => {
                case.miss("the whole table, which somebody else has put in again".to_owned());
                return Ok(Looked::Done);
            }
            TableState::Whole => return Ok(Looked::Done),
            TableState::Missing => vec!["the whole table".to_owned()],
            TableState::Changed(differences) => differences,
        };
        missing.into_iter().for_each(|missing| case.miss(missing));
        let emptied = self.template.emptied(found.as_ref());
        let (mut elements, complete) = match emptied.is_empty() {
            true => (Vec::new(), Complete::Yes),
            false => elements(),
        };
        let is_of_these = |element: &Element| emptied.contains(&element.set);
        elements.retain(|elements| elements.first().is_some_and(is_of_these));
        let put_in = self.kernel.put_in(&self.template, found.as_ref(), &elements);
        if put_in.as_ref().is_err_and(FirewallError::says_already_there) {
            // What it lacks is seen by the next look, which finds it.
            case.came_back = true;
            case.missing.clear();
        }
        put_in?;
        case.shut = Some(clock::now().uptime);
        let kept = emptied.iter().filter(|set| keeps_doors_or_bans(set)).count();
        case.emptied |= complete == Complete::No && kept > 0;
        case.is_known = complete == Complete::Yes && kept + 1 == KEPT.len();
        case.lacks_tags |= emptied.contains(&TAGS);
        let found = self.kernel.table(self.template.ruleset())?;
        match table::compare(&self.template, found.as_ref()) {
            TableState::Whole => Ok(Looked::Done),
            TableState::Missing => Err(FirewallError::ReadBack("it is gone".to_owned())),
            TableState::Changed(differences) => {
                Err(FirewallError::ReadBack(differences.join("; ")))
            }
        }
    }

    /// Whether a table that differs is to stay for now, because it may follow from the configuration as it is now: that
    /// is being looked at.
    fn begins_to_adopt(&mut self, found: &Listing) -> bool {
        if !adopt::may_be_newer(&self.template, found) {
            return false;
        }
        if self.adopting.is_some() {
            return true;
        }
        let Some(case) = &mut self.case else { return false };
        if mem::replace(&mut case.was_compared_with_newer, true) {
            return false;
        }
        self.adopting = adopt::begin(Arc::clone(&self.newer)).ok();
        self.adopting.is_some()
    }

    /// Believes from here on that any door or ban can be another than it ought to be.
    fn doubt_all_elements(&mut self) {
        self.open_case().emptied = true;
    }

    /// Puts the whole table in again, with sets that are empty, because what is in them is too much to be read; later if
    /// that was done just now. Whether it was done.
    fn put_in_anew(&mut self) -> Result<bool, FirewallError> {
        let now = Instant::now();
        if let Some(again) = self.emptied_at.map(|last| last + BETWEEN_REFILLS)
            && now < again
        {
            self.anew_at = Some(again);
            return Ok(false);
        }
        self.emptied_at = Some(now);
        let found = self.kernel.table(self.template.ruleset())?;
        // As if it slept: then all of it goes.
        let found = found.map(|found| Listing { flags: 1, ..found });
        self.kernel.put_in(&self.template, found.as_ref(), &[])?;
        let case = self.open_case();
        (case.emptied, case.lacks_tags) = (true, true);
        Ok(true)
    }

    /// Puts a table in that is gone, in between two steps of somebody who is changing its elements. Whether
    /// it is in.
    fn put_in_again(&mut self) -> bool {
        self.open_case();
        if !self.may_look() {
            return false;
        }
        match self.look(|| (Vec::new(), Complete::No)) {
            Ok(Looked::Done) => true,
            Ok(Looked::Later) => false,
            Err(error) => {
                self.fail(&error);
                error.says_already_there()
            }
        }
    }

    /// Puts some more of the doors and bans of a table in that has begun empty.
    fn put_in_elements(
        &mut self,
        doors: &[Change],
        bans: &[BanChange],
        now: Uptime,
    ) -> Result<(), FirewallError> {
        let put_in = |kernel: &mut Kernel| {
            kernel.apply(doors, now)?;
            kernel.ban(bans, now)
        };
        match doors.len() + bans.len() {
            0..MANY => put_in(&mut self.kernel),
            _ => self.quietly(put_in),
        }
    }

    /// Changes many elements without a notification of each, which takes the kernel as long as the change does, and 4 KiB
    /// each until all of them are told. What somebody else changes meanwhile isn't told either: that there was something is
    /// seen by the number of the ruleset.
    fn quietly<T>(&mut self, work: impl FnOnce(&mut Kernel) -> T) -> T {
        let Self { kernel, watch, .. } = self;
        if Instant::now() < self.loud_until {
            return work(kernel);
        }
        let (commits, before) = kernel.generation();
        let done = watch.pause(|| work(kernel));
        let (commits_then, then) = kernel.generation();
        let own = commits_then.wrapping_sub(commits);
        if then.is_none() || then != before.map(|before| before.wrapping_add(own)) {
            self.loud_until = Instant::now() + LOUD_FOR;
            self.watch.doubt();
        }
        done
    }

    fn or_with_a_new_table<T>(
        &mut self,
        elements: usize,
        mut attempt: impl FnMut(&mut Kernel) -> Result<T, FirewallError>,
    ) -> Result<T, FirewallError> {
        let attempted = match elements {
            0..MANY => attempt(&mut self.kernel),
            _ => self.quietly(&mut attempt),
        };
        match attempted {
            Err(error) if error.says_not_there() && self.put_in_again() => {
                attempt(&mut self.kernel)
            }
            result => result,
        }
    }

    fn fail(&mut self, error: &FirewallError) {
        self.repairs.failing = Some(error.to_string());
        // Somebody was quicker: at once again, as often as looks are allowed.
        if error.says_not_there()
            || error.says_already_there()
            || matches!(error, FirewallError::ReadBack(_))
        {
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
        self.or_with_a_new_table(changes.len(), |kernel| kernel.apply(changes, now))
    }

    fn admit_tags(&mut self, tags: &[(Tag, Duration)]) -> Result<(), FirewallError> {
        self.or_with_a_new_table(tags.len(), |kernel| kernel.admit_tags(tags))
    }

    fn doors(&mut self) -> Result<Option<Vec<(Door, Duration)>>, FirewallError> {
        self.or_with_a_new_table(0, Kernel::doors)
    }

    fn replace(
        &mut self,
        doors: &[(Door, Duration)],
        bans: &[BanLeft],
    ) -> Result<(), FirewallError> {
        let elements = doors.len() + bans.len();
        self.or_with_a_new_table(elements, |kernel| kernel.replace(doors, bans))
    }

    fn ban(&mut self, changes: &[BanChange], now: Uptime) -> Result<(), FirewallError> {
        self.or_with_a_new_table(changes.len(), |kernel| kernel.ban(changes, now))
    }

    fn bans(&mut self) -> Result<Option<Vec<BanLeft>>, FirewallError> {
        self.or_with_a_new_table(0, Kernel::bans)
    }

    fn own_addresses(&mut self) -> io::Result<NeverBanned> {
        self.kernel.own_addresses()
    }

    fn doubt_everything(&mut self) -> bool {
        self.open_case().sighting.merge(Sighting::missed(clock::now().uptime));
        true
    }
}

/// Whether what goes in with a table is all that is to be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complete {
    Yes,
    No,
}

/// What became of a look at the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// It is as it ought to be.
    Done,
    /// It stays as it is until the configuration has been read.
    Later,
}

/// Looks at the table and puts right what is not as it ought to be: the table itself first, then its doors and bans; its
/// tags go in again in the steps that housekeeping makes from then on.
pub fn mend(admission: &mut Admission<Mender>, house: &mut Housekeeping) {
    if !admission.firewall_mut().may_look() {
        return;
    }
    let (elements, complete) = with_the_table(admission, clock::now().uptime);
    match admission.firewall_mut().look(|| (elements, complete)) {
        Ok(Looked::Later) => return,
        Ok(Looked::Done) => {}
        Err(error) => return admission.firewall_mut().fail(&error),
    }
    match mend_elements(admission) {
        Ok(reconciled) => {
            let mender = admission.firewall_mut();
            if mender.case.as_ref().is_some_and(Case::may_lack_tags) {
                house.put_tags_in_again();
            }
            mender.close(reconciled, clock::now());
        }
        Err(error) => admission.firewall_mut().fail(&error),
    }
}

/// Makes doors and bans right in a table that is: those that were touched, or all where that isn't known.
fn mend_elements(admission: &mut Admission<Mender>) -> Result<Reconciled, FirewallError> {
    let now = clock::now();
    let mender = admission.firewall();
    let Some(case) = &mender.case else { return Ok(Reconciled::default()) };
    if !case.emptied {
        // What the daemon put in itself is known, whatever was before.
        if case.is_known {
            return Ok(Reconciled::default());
        }
        if !case.sighting.may_concern_all_elements() {
            let (touched, reconciled) =
                case.touched(admission.grants(), admission.gate().bans(), now.uptime);
            admission.settle_these(&touched, now)?;
            return Ok(reconciled);
        }
        if let Some(reconciled) = admission.reconcile_few(now)? {
            if reconciled.doors_are_due {
                begin_to_refill(admission, now.uptime);
            }
            return Ok(reconciled);
        }
        if !admission.firewall_mut().put_in_anew()? {
            return Ok(Reconciled::default());
        }
    }
    begin_to_refill(admission, now.uptime);
    Ok(Reconciled::default())
}

fn begin_to_refill(admission: &mut Admission<Mender>, now: Uptime) {
    let refill = Refill::of(admission.grants(), admission.gate().bans(), now);
    admission.firewall_mut().refill = Some(refill);
    // Few are in at once.
    self::refill(admission);
}

/// The doors and bans that go in with a table, and whether they are all that there are.
fn with_the_table(admission: &Admission<Mender>, now: Uptime) -> (Vec<Vec<Element>>, Complete) {
    let (grants, bans) = (admission.grants(), admission.gate().bans());
    if grants.doors().len() + bans.iter().len() > WITH_THE_TABLE {
        return (Vec::new(), Complete::No);
    }
    (elements_of(&live_doors(grants, now), &live_bans(bans, now)), Complete::Yes)
}

fn keeps_doors_or_bans(set: &str) -> bool {
    set != TAGS && KEPT.contains(&set)
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
