//! Who is banned, until when, and by whom: the truth that the kernel's sets of bans are made to match.
//!
//! | | by its failures | by an admin |
//! | --- | --- | --- |
//! | its junk | is dropped in the kernel | is dropped in the kernel |
//! | a valid knock from it | passes, and lifts the ban | is refused: `banned` |
//! | a live grant of it | goes on; no ban is made while it lasts | ends, and so do its connections |
//!
//! # Security considerations
//! - The source of a datagram is forgeable. So a ban by failures takes nothing from whoever holds a key: it
//!   is made while no grant of that source is live, and one valid knock lifts it.
//! - The host's own addresses, gateways and resolvers, and the networks of `ban.never`, are never banned,
//!   nor is a source that has an address in common with them.
//! - There are at most [`Bans::MAX`] bans, of which failures can take all but [`Bans::FOR_ADMINS`]. When
//!   those are taken a further source isn't banned: nobody's ban is lifted by making others. Its junk
//!   is then bounded by the kernel's junk budget alone.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    ops::Bound,
    str::FromStr,
    time::Duration,
};

use ipnet::{IpNet, Ipv6Net};

use super::{
    clock::Uptime,
    policy::BanPolicy,
    source::{Source, Translators},
};

/// Who banned a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanKind {
    /// Its own failures, or those of packets that were forged in its name.
    Failures,
    /// An admin.
    Admin,
}

impl BanKind {
    /// The kind's one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Admin => "admin",
        }
    }
}

/// Why a source is banned, in a few words: at most 64 bytes without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanReason(Box<str>);

/// A text that is no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reason has at most 64 bytes and no control characters")]
pub struct InvalidBanReason;

impl BanReason {
    /// Longest reason in bytes.
    pub const MAX_LEN: usize = 64;

    /// The reason as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BanReason {
    type Err = InvalidBanReason;

    fn from_str(text: &str) -> Result<Self, InvalidBanReason> {
        if text.len() > Self::MAX_LEN || text.contains(char::is_control) {
            return Err(InvalidBanReason);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for BanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who made it.
    pub kind: BanKind,
    /// Until when it holds.
    pub until: Uptime,
    /// How long it was made for.
    pub length: Duration,
    /// Why.
    pub reason: BanReason,
}

/// What is to become of a source in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanChange {
    /// The source.
    pub source: Source,
    /// Whose bans it is, or was, among.
    pub kind: BanKind,
    /// Until when it is banned; `None` to lift the ban.
    pub until: Option<Uptime>,
}

/// Why a source isn't banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBanned {
    /// It has an address in common with a network that is never banned.
    #[error(
        "it has addresses in common with {0}, which is never banned (ban.never and allow.networks)"
    )]
    Never(IpNet),
    /// It has an address in common with the host itself, a gateway or a resolver.
    #[error(
        "{0} is this host's own address, or one of its gateways or resolvers: it is never banned"
    )]
    Own(IpAddr),
    /// It holds the prefix of a translator, and so many other sources.
    #[error(
        "it holds the translator's prefix {0}, and with it many others: name one address, as ADDRESS/128"
    )]
    Translated(Ipv6Net),
    /// There are as many bans as can be.
    #[error("as many sources are banned as can be: lift some bans with `knockd unban`")]
    Full,
}

/// All bans.
#[derive(Default)]
pub struct Bans {
    by_source: HashMap<Source, Ban>,
    ends: BTreeSet<(Uptime, Source)>,
    /// How many are by failures.
    by_failures: usize,
    never: Vec<IpNet>,
    translators: Translators,
    own: BTreeSet<IpAddr>,
}

impl Bans {
    /// The most bans at once; also the size of each of the kernel's sets.
    pub const MAX: usize = 65_536;
    /// How many of them failures can't take.
    pub const FOR_ADMINS: usize = 1_024;

    /// No bans yet.
    #[must_use]
    pub fn new(policy: &BanPolicy) -> Self {
        let (never, translators) = (policy.never.clone(), policy.translators.clone());
        Self { never, translators, ..Self::default() }
    }

    /// The source that an address belongs to.
    #[must_use]
    pub fn source_of(&self, address: IpAddr) -> Source {
        self.translators.source_of(address)
    }

    /// The host's own addresses, its gateways and resolvers, as they are now. Returns the sources that were
    /// banned and must not be: their bans are to be lifted.
    #[must_use]
    pub fn set_own(&mut self, own: Vec<IpAddr>) -> Vec<Source> {
        self.own = own.into_iter().collect();
        let banned: BTreeSet<Source> = self.own.iter().map(|own| self.source_of(*own)).collect();
        banned.into_iter().filter(|source| self.by_source.contains_key(source)).collect()
    }

    /// The networks that are never banned and the translators' prefixes, as they are now. Returns the sources that
    /// were banned and must not be: their bans are to be lifted.
    #[must_use]
    pub fn set_policy(&mut self, policy: &BanPolicy) -> Vec<Source> {
        self.never.clone_from(&policy.never);
        self.translators.clone_from(&policy.translators);
        let is_exempt = |source: &&Source| {
            self.never.iter().any(|never| source.overlaps(never))
                || self.translators.split(**source).is_some()
        };
        self.by_source.keys().filter(is_exempt).copied().collect()
    }

    /// Whether a source is never banned, and why.
    ///
    /// # Errors
    /// [`NotBanned::Never`], [`NotBanned::Own`] or [`NotBanned::Translated`].
    pub fn check_exempt(&self, source: Source) -> Result<(), NotBanned> {
        // The kernel takes all of 127.0.0.0/8 for its own, of which an interface has one address.
        let loopback = Some(source.first()).filter(IpAddr::is_loopback);
        let network = source.network();
        let mut own = self.own.range(network.network()..=network.broadcast()).copied();
        if let Some(own) = own.next().or(loopback) {
            return Err(NotBanned::Own(own));
        }
        if let Some(network) = self.never.iter().find(|network| source.overlaps(network)) {
            return Err(NotBanned::Never(*network));
        }
        match self.translators.split(source) {
            Some(prefix) => Err(NotBanned::Translated(prefix)),
            None => Ok(()),
        }
    }

    /// Bans a source. A source that is banned already stays so as it is, unless an admin says otherwise.
    /// The changes that follow for the kernel go to `changes`.
    ///
    /// # Errors
    /// [`NotBanned`] says why it isn't.
    pub fn ban(
        &mut self,
        source: Source,
        ban: Ban,
        changes: &mut Vec<BanChange>,
    ) -> Result<(), NotBanned> {
        self.check_exempt(source)?;
        let before = self.by_source.get(&source).map(|ban| ban.kind);
        if ban.kind == BanKind::Failures && before.is_some() {
            return Ok(());
        }
        let room = match ban.kind {
            BanKind::Failures => self.by_failures < Self::MAX - Self::FOR_ADMINS,
            BanKind::Admin => true,
        };
        if before.is_none() && !(room && self.by_source.len() < Self::MAX) {
            return Err(NotBanned::Full);
        }
        if before == Some(BanKind::Failures) {
            changes.push(BanChange { source, kind: BanKind::Failures, until: None });
        }
        changes.push(BanChange { source, kind: ban.kind, until: Some(ban.until) });
        self.put(source, Some(ban));
        Ok(())
    }

    /// Lifts a ban, whoever made it. `None` if there was none.
    #[must_use = "the kernel is to be told"]
    pub fn lift(&mut self, source: Source) -> Option<BanChange> {
        let kind = self.put(source, None)?.kind;
        Some(BanChange { source, kind, until: None })
    }

    /// A client that holds a key has knocked from this source: lifts a ban by failures.
    #[must_use = "the kernel is to be told"]
    pub fn lift_failures(&mut self, source: Source) -> Option<BanChange> {
        match self.by_source.get(&source)?.kind {
            BanKind::Failures => self.lift(source),
            BanKind::Admin => None,
        }
    }

    /// Puts a source's ban as it was before a change that did not come to pass.
    pub fn undo(&mut self, source: Source, before: Option<Ban>) {
        self.put(source, before);
    }

    /// Lets go of the bans whose time is over; the kernel has lifted them by itself.
    pub fn expire(&mut self, now: Uptime) -> Vec<Source> {
        let mut expired = Vec::new();
        while let Some((_, source)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.put(source, None);
            expired.push(source);
        }
        expired
    }

    /// Whether an admin has shut this address out.
    #[must_use]
    pub fn is_shut_out(&self, address: IpAddr, now: Uptime) -> bool {
        self.by_source
            .get(&self.source_of(address))
            .is_some_and(|ban| ban.kind == BanKind::Admin && now < ban.until)
    }

    /// The ban of a source.
    #[must_use]
    pub fn get(&self, source: Source) -> Option<&Ban> {
        self.by_source.get(&source)
    }

    /// All bans, in no order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Source, &Ban)> {
        self.by_source.iter()
    }

    /// The bans that end after this one, in the order of their ends; all, if it isn't given.
    pub fn ending_after(
        &self,
        last: Option<(Uptime, Source)>,
    ) -> impl Iterator<Item = (Source, &Ban)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let ends = self.ends.range((from, Bound::Unbounded));
        ends.filter_map(|(_, source)| Some((*source, self.by_source.get(source)?)))
    }

    /// How many bans there are of a kind.
    #[must_use]
    pub fn count(&self, kind: BanKind) -> usize {
        match kind {
            BanKind::Failures => self.by_failures,
            BanKind::Admin => self.by_source.len() - self.by_failures,
        }
    }

    fn put(&mut self, source: Source, ban: Option<Ban>) -> Option<Ban> {
        let count = |ban: &Option<Ban>| {
            usize::from(ban.as_ref().is_some_and(|ban| ban.kind == BanKind::Failures))
        };
        let (until, after) = (ban.as_ref().map(|ban| ban.until), count(&ban));
        let before = match ban {
            Some(ban) => self.by_source.insert(source, ban),
            None => self.by_source.remove(&source),
        };
        self.by_failures = self.by_failures + after - count(&before);
        if let Some(before) = &before {
            self.ends.remove(&(before.until, source));
        }
        self.ends.extend(until.map(|until| (until, source)));
        before
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ban(kind: BanKind, seconds: u64) -> Ban {
        Ban {
            kind,
            until: Uptime::from_millis(seconds * 1_000),
            length: Duration::from_secs(seconds),
            reason: "bad-mac".parse().unwrap(),
        }
    }

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(number).into())
    }

    fn make(bans: &mut Bans, source: Source, ban: Ban) -> Result<Vec<BanChange>, NotBanned> {
        let mut changes = Vec::new();
        bans.ban(source, ban, &mut changes).map(|()| changes)
    }

    #[test]
    fn a_ban_by_failures_is_lifted_by_a_valid_knock_and_an_admins_is_not() {
        let mut bans = Bans::default();
        for (number, kind) in [(1, BanKind::Failures), (2, BanKind::Admin)] {
            let made = make(&mut bans, source(number), ban(kind, 10)).unwrap();
            let until = Some(Uptime::from_millis(10_000));
            assert_eq!(made, [BanChange { source: source(number), kind, until }]);
        }
        assert!(bans.lift_failures(source(1)).is_some_and(|change| change.until.is_none()));
        assert_eq!(bans.lift_failures(source(2)), None);
        assert_eq!(bans.iter().len(), 1);
    }

    #[test]
    fn only_an_admins_ban_shuts_a_key_holder_out_and_only_for_its_time() {
        let mut bans = Bans::default();
        make(&mut bans, source(1), ban(BanKind::Failures, 10)).unwrap();
        make(&mut bans, source(2), ban(BanKind::Admin, 10)).unwrap();
        let shut_out =
            |number, at| bans.is_shut_out(source(number).first(), Uptime::from_millis(at));
        assert!(!shut_out(1, 0));
        assert!(shut_out(2, 9_999));
        assert!(!shut_out(2, 10_000));
    }

    #[test]
    fn an_admins_ban_takes_the_place_of_one_by_failures_and_not_the_other_way_round() {
        let mut bans = Bans::default();
        make(&mut bans, source(1), ban(BanKind::Failures, 10)).unwrap();
        let kinds = |changes: Vec<BanChange>| -> Vec<_> {
            changes.into_iter().map(|change| (change.kind, change.until.is_some())).collect()
        };
        let made = make(&mut bans, source(1), ban(BanKind::Admin, 5)).unwrap();
        assert_eq!(kinds(made), [(BanKind::Failures, false), (BanKind::Admin, true)]);
        assert_eq!(make(&mut bans, source(1), ban(BanKind::Failures, 99)), Ok(Vec::new()));
        assert_eq!(bans.get(source(1)), Some(&ban(BanKind::Admin, 5)));
    }

    #[test]
    fn whoever_goes_on_failing_while_banned_changes_nothing() {
        let mut bans = Bans::default();
        make(&mut bans, source(1), ban(BanKind::Failures, 10)).unwrap();
        assert_eq!(make(&mut bans, source(1), ban(BanKind::Failures, 99)), Ok(Vec::new()));
        assert_eq!(bans.get(source(1)), Some(&ban(BanKind::Failures, 10)));
    }

    #[test]
    fn bans_end_by_themselves() {
        let mut bans = Bans::default();
        make(&mut bans, source(1), ban(BanKind::Failures, 10)).unwrap();
        make(&mut bans, source(2), ban(BanKind::Admin, 20)).unwrap();
        assert_eq!(bans.expire(Uptime::from_millis(9_999)), []);
        assert_eq!(bans.expire(Uptime::from_millis(10_000)), [source(1)]);
        assert_eq!(bans.expire(Uptime::from_millis(99_000)), [source(2)]);
        assert_eq!((bans.iter().len(), bans.by_failures), (0, 0));
    }

    #[test]
    fn what_is_never_banned_is_not_even_by_an_admin_and_neither_is_the_network_around_it() {
        let mut bans = Bans::new(&BanPolicy {
            never: vec!["192.0.2.0/24".parse().unwrap()],
            ..BanPolicy::default()
        });
        let own = ["198.51.100.1", "2001:db8::1"].map(|own| own.parse().unwrap());
        assert!(bans.set_own(own.to_vec()).is_empty());
        for text in ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.1", "2001:db8::bad", "127.0.0.9"]
        {
            for kind in [BanKind::Failures, BanKind::Admin] {
                let result = make(&mut bans, text.parse().unwrap(), ban(kind, 10));
                assert!(matches!(result, Err(NotBanned::Never(_) | NotBanned::Own(_))), "{text}");
            }
        }
    }

    #[test]
    fn an_address_that_becomes_the_hosts_own_is_to_be_let_go() {
        let mut bans = Bans::default();
        make(&mut bans, source(1), ban(BanKind::Failures, 10)).unwrap();
        assert_eq!(bans.set_own(vec![source(1).first(), source(2).first()]), [source(1)]);
    }

    #[test]
    fn failures_fill_all_but_the_admins_part_and_lift_nobodys_ban() {
        let mut bans = Bans::default();
        let most = u32::try_from(Bans::MAX - Bans::FOR_ADMINS).unwrap();
        for number in 0..most {
            make(&mut bans, source(number), ban(BanKind::Failures, 10)).unwrap();
        }
        let full = make(&mut bans, source(most), ban(BanKind::Failures, 10));
        assert_eq!(full, Err(NotBanned::Full));
        for number in most..u32::try_from(Bans::MAX).unwrap() {
            make(&mut bans, source(number), ban(BanKind::Admin, 10)).unwrap();
        }
        let full = make(&mut bans, source(u32::MAX), ban(BanKind::Admin, 10));
        assert_eq!(full, Err(NotBanned::Full));
        assert!(make(&mut bans, source(0), ban(BanKind::Admin, 10)).is_ok());
        assert_eq!(bans.iter().len(), Bans::MAX);
    }

    #[test]
    fn a_reason_is_short_and_stays_on_its_line() {
        assert!("x".repeat(64).parse::<BanReason>().is_ok());
        for bad in ["x".repeat(65), "a\nb".to_owned(), "\u{1b}[2J".to_owned()] {
            assert_eq!(bad.parse::<BanReason>(), Err(InvalidBanReason));
        }
    }
}
