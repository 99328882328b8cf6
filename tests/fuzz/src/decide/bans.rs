//! Who must be banned: the rules of the gate's bans, written a second time.

use std::{net::IpAddr, time::Duration};

use knockd::gate::{
    bans::{Ban, BanChange, BanKind, BanReason, Bans},
    clock::Uptime,
    decision::{Accepted, Refusal},
    source::Source,
};

use super::{
    Story, source,
    world::{BAN_MS, FAILURES, WINDOW_MS},
};
use crate::input::Input;

impl Story {
    /// A refusal counts if it is a stranger's, and too many of them ban a source that holds no door.
    pub(super) fn strike(&mut self, from: IpAddr, refusal: Refusal) {
        self.expire_bans();
        let source = Source::of(from);
        let counts = match refusal.reason.name() {
            "unknown-tag" | "bad-mac" | "bad-seal" => true,
            "malformed" => refusal.client.is_none(),
            _ => false,
        };
        let is_due = counts && self.is_one_too_many(source) && !self.holds_a_door(source);
        let bans = is_due && !is_exempt(source) && !self.banned.contains_key(&source);
        let mut changes = Vec::new();
        let result = self.gate.strike(from, refusal, &self.grants, self.now, &mut changes);
        assert_eq!(result.is_err(), is_due && is_exempt(source), "{source}: {result:?}");
        if bans {
            let (kind, until) =
                (BanKind::Failures, self.now.uptime + Duration::from_millis(BAN_MS));
            assert_eq!(changes, [BanChange { source, kind, until: Some(until) }]);
            self.banned.insert(source, (kind, until));
        } else {
            assert_eq!(changes, [], "{refusal:?} from {source}");
        }
        self.assert_bans();
    }

    /// An accepted packet opens or closes doors, and lifts a ban by failures.
    pub(super) fn admit(&mut self, accepted: &Accepted, from: IpAddr) {
        self.hold(accepted);
        let source = Source::of(from);
        let is_by_failures =
            self.banned.get(&source).is_some_and(|(kind, _)| *kind == BanKind::Failures);
        assert_eq!(self.gate.bans_mut().lift_failures(source).is_some(), is_by_failures);
        if is_by_failures {
            self.banned.remove(&source);
        }
        self.assert_bans();
    }

    /// An admin bans a source, or lifts its ban.
    pub(super) fn rule(&mut self, input: &mut Input<'_>) {
        self.expire_bans();
        let source = Source::of(source(input));
        let before = self.banned.get(&source).map(|(kind, _)| *kind);
        if input.below(3) == 0 {
            let lifted = self.gate.bans_mut().lift(source);
            assert_eq!(lifted.map(|change| change.kind), before);
            self.banned.remove(&source);
        } else {
            let length = Duration::from_secs(input.byte().into());
            let until = self.now.uptime + length;
            let ban = Ban { kind: BanKind::Admin, until, length, reason: BanReason::default() };
            let result = self.gate.bans_mut().ban(source, ban, &mut Vec::new());
            assert_eq!(result.is_err(), is_exempt(source), "{source}: {result:?}");
            if result.is_ok() {
                self.banned.insert(source, (BanKind::Admin, until));
            }
        }
        self.assert_bans();
    }

    /// Whether an admin has shut a source out.
    pub(super) fn is_shut_out(&self, from: IpAddr) -> bool {
        self.banned
            .get(&Source::of(from))
            .is_some_and(|(kind, until)| *kind == BanKind::Admin && self.now.uptime < *until)
    }

    fn expire_bans(&mut self) {
        self.gate.bans_mut().expire(self.now.uptime);
        self.banned.retain(|_, (_, until)| self.now.uptime < *until);
    }

    /// Counts a failure, unless as many have not been refilled yet as are tolerated.
    fn is_one_too_many(&mut self, source: Source) -> bool {
        let (now, each) = (self.now.uptime.as_millis(), WINDOW_MS / u64::from(FAILURES));
        let refilled = self.refilled.entry(source).or_insert(now);
        if refilled.saturating_sub(now) > WINDOW_MS - each {
            return true;
        }
        *refilled = now.max(*refilled) + each;
        false
    }

    fn holds_a_door(&self, source: Source) -> bool {
        let is_live = |until: &Uptime| self.now.uptime < *until;
        self.held.iter().any(|(owner, until)| source.contains(owner.address.ip()) && is_live(until))
    }

    /// Exactly those are banned who must be.
    fn assert_bans(&self) {
        let bans = self.gate.bans();
        assert_eq!(bans.iter().len(), self.banned.len());
        for (source, (kind, until)) in &self.banned {
            assert!(!is_exempt(*source), "{source} is banned");
            let found = bans.get(*source).map(|ban| (ban.kind, ban.until));
            assert_eq!(found, Some((*kind, *until)), "{source}");
        }
        assert!(self.banned.len() <= Bans::MAX);
    }
}

/// Whether the world says that a source is never banned.
fn is_exempt(source: Source) -> bool {
    match source.first() {
        IpAddr::V4(v4) => matches!(v4.octets(), [127, ..] | [10, 3, ..]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0 | 0xfe80, 0, 0, 0, ..]),
    }
}
