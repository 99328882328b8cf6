//! Doors and bans of a table that has begun empty go in again, in steps between which packets are dealt with.

use tracing::info;

use super::Mender;
use crate::{
    admission::Admission,
    clock,
    firewall::CHANGES_AT_ONCE,
    gate::{
        bans::{BanChange, BanKind, Bans},
        clock::Uptime,
        grants::{Change, Door, DoorBefore, Grants},
        source::Source,
    },
};

/// What is to go in yet: what it is then is looked up when its turn comes.
#[derive(Debug)]
pub(super) struct Refill {
    doors: Vec<Door>,
    bans: Vec<(Source, BanKind)>,
    /// How many there were, and since when they go in.
    all: usize,
    since: Uptime,
}

impl Refill {
    /// All doors and bans that there are.
    pub(super) fn of(grants: &Grants, bans: &Bans, now: Uptime) -> Self {
        let doors: Vec<Door> = grants.doors().map(|(door, _)| *door).collect();
        let bans: Vec<_> = bans.iter().map(|(source, ban)| (*source, ban.kind)).collect();
        let all = doors.len() + bans.len();
        Self { doors, bans, all, since: now }
    }

    fn is_empty(&self) -> bool {
        self.doors.is_empty() && self.bans.is_empty()
    }

    /// The next of them: bans first, for they keep somebody out.
    fn step(&mut self, grants: &Grants, bans: &Bans, now: Uptime) -> (Vec<Change>, Vec<BanChange>) {
        let first = self.bans.len().saturating_sub(CHANGES_AT_ONCE);
        let banned: Vec<BanChange> = self
            .bans
            .drain(first..)
            .filter_map(|(source, kind)| {
                let ban = bans.get(source).filter(|ban| ban.kind == kind && ban.until > now)?;
                Some(BanChange { source, kind, until: Some(ban.until) })
            })
            .collect();
        if !banned.is_empty() {
            return (Vec::new(), banned);
        }
        let first = self.doors.len().saturating_sub(CHANGES_AT_ONCE);
        let opened = self.doors.drain(first..).filter_map(|door| {
            let until = grants.open_until(&door).filter(|until| *until > now)?;
            // Most are shut; where one isn't, the kernel says so, and all are changed the longer way.
            Some(Change { door, until: Some(until), before: DoorBefore::Shut })
        });
        (opened.collect(), Vec::new())
    }
}

impl Mender {
    /// Whether doors and bans are to go in yet.
    #[must_use]
    pub const fn refills(&self) -> bool {
        self.refill.is_some()
    }
}

/// Puts some more of them in: a millisecond's work.
pub fn refill(admission: &mut Admission<Mender>) {
    let Some(mut refill) = admission.firewall_mut().refill.take() else { return };
    let now = clock::now().uptime;
    let (doors, bans) = refill.step(admission.grants(), admission.gate().bans(), now);
    let mender = admission.firewall_mut();
    let put_in = mender.put_in_elements(&doors, &bans, now);
    match put_in {
        Ok(()) if refill.is_empty() => {
            let took_ms = u64::try_from(now.since(refill.since).as_millis()).unwrap_or(u64::MAX);
            info!(
                elements = refill.all,
                took_ms,
                event = "elements-restored",
                "the doors of live grants and the bans are in the kernel again"
            );
        }
        Ok(()) => mender.refill = Some(refill),
        Err(error) => {
            mender.doubt_all_elements();
            mender.fail(&error);
        }
    }
}
