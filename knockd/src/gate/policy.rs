//! What the admin has laid down, as checked types: services, clients, and how grants are given.
//!
//! The configuration is parsed into these once; everything behind it can rely on them.

use std::{
    fmt,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use common::{Day, Realm, Secret, ServiceName, Timestamp};
use ipnet::IpNet;

/// A client's name: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(Box<str>);

/// A name that no client can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a client's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub struct InvalidClientName;

impl ClientName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = InvalidClientName;

    fn from_str(name: &str) -> Result<Self, InvalidClientName> {
        let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts_well = name.bytes().next().is_some_and(is_alphanumeric);
        let goes_on_well = name.bytes().all(|byte| is_alphanumeric(byte) || b"._-".contains(&byte));
        if starts_well && goes_on_well && name.len() <= Self::MAX_LEN {
            Ok(Self(name.into()))
        } else {
            Err(InvalidClientName)
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A transport protocol that a door can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, IP protocol number 6.
    Tcp,
    /// UDP, IP protocol number 17.
    Udp,
}

impl Protocol {
    /// The number in the IP header (IANA, "Assigned Internet Protocol Numbers").
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol of this number in the IP header.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a protocol, written `tcp/8883`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port's number, 1 to 65,535.
    pub number: NonZeroU16,
}

/// A port that isn't written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a port is written \"tcp/8883\" or \"udp/5684\", its number from 1 to 65535")]
pub struct InvalidPort;

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(port: &str) -> Result<Self, InvalidPort> {
        let (protocol, number) = port.split_once('/').ok_or(InvalidPort)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(InvalidPort),
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidPort);
        }
        Ok(Self { protocol, number: number.parse().map_err(|_| InvalidPort)? })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

/// Something behind the door: ports of this host, or of hosts that this one routes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, as packets carry it.
    pub name: ServiceName,
    /// The ports that a grant opens; never empty.
    pub ports: Vec<Port>,
    /// Addresses behind this host; empty for a service of this host itself.
    pub to: Vec<IpAddr>,
}

/// What happens to an established connection when its grant ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// It lives on.
    Keep,
    /// It ends with the grant.
    Cut,
}

/// How grants are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantPolicy {
    /// How long a door opens when the packet asks for nothing; at least a second, at most `max`.
    pub open_for: Duration,
    /// The longest that a door opens for one packet.
    pub max: Duration,
    /// For how many addresses one client can hold doors at once.
    pub per_client: NonZeroU32,
    /// What happens to established connections when a grant ends.
    pub sessions: Sessions,
}

impl GrantPolicy {
    /// For how long the door opens to a packet that asks for this: min(asked or default, maximum).
    #[must_use]
    pub fn duration(&self, asked: common::OpenFor) -> Duration {
        match asked {
            common::OpenFor::Default => self.open_for,
            common::OpenFor::Seconds(seconds) => Duration::from_secs(u64::from(seconds.get())),
        }
        .min(self.max)
    }
}

/// How far a packet's timestamp may be from the daemon's clock, in either direction; at most 12 hours,
/// so that yesterday's, today's and tomorrow's tags are all that is ever needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew(Duration);

/// A skew of more than [`ClockSkew::MAX`], or of less than a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the allowed clock skew is from 1ms to 12h")]
pub struct InvalidClockSkew;

impl ClockSkew {
    /// The largest that can be allowed.
    pub const MAX: Duration = Duration::from_hours(12);

    /// The skew in milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<Duration> for ClockSkew {
    type Error = InvalidClockSkew;

    fn try_from(skew: Duration) -> Result<Self, InvalidClockSkew> {
        if (Duration::from_millis(1)..=Self::MAX).contains(&skew) {
            Ok(Self(skew))
        } else {
            Err(InvalidClockSkew)
        }
    }
}

/// Who is banned, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanPolicy {
    /// How many failures of one source are tolerated at once.
    pub failures: NonZeroU32,
    /// Within which time as many are refilled, evenly; at least a second.
    pub window: Duration,
    /// How long a source is banned that fails more often.
    pub duration: Duration,
    /// What is shut to a banned source.
    pub scope: BanScope,
    /// Networks that are never banned.
    pub never: Vec<IpNet>,
}

impl Default for BanPolicy {
    /// As it is where the configuration says nothing.
    fn default() -> Self {
        Self {
            failures: const { NonZeroU32::new(5).unwrap() },
            window: Duration::from_mins(30),
            duration: Duration::from_hours(6),
            scope: BanScope::Knock,
            never: Vec::new(),
        }
    }
}

/// What is shut to a source that is banned by its failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanScope {
    /// The knock port.
    Knock,
    /// Everything, established connections included.
    Host,
}

/// Bounds of the memory against replays, in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayLimits {
    /// All clients together.
    pub capacity: u32,
    /// One client's share of it.
    pub per_client: u32,
}

/// Whether packets that ask for a reply get one (PROTOCOL.md, "Reply").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyPolicy {
    /// Nothing ever comes back.
    #[default]
    Off,
    /// Those that are accepted in full do.
    On,
}

/// Which address a client may open the door for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPolicy {
    /// The address in the packet must be the datagram's source.
    Strict,
    /// An all-zero address takes the datagram's source: for clients behind NAT.
    Observed,
}

/// What keeps a client's packets from being accepted twice (PROTOCOL.md, step 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientClock {
    /// They are stamped with the time, and remembered for as long as it is fresh.
    #[default]
    Utc,
    /// The device has no clock: they carry a number that rises with every one.
    Counter,
}

impl ClientClock {
    /// Whether a client with such a clock has a tag on this day: without a clock on [`Day::COUNTER`] alone, with
    /// one on every other (PROTOCOL.md, "Datagram").
    #[must_use]
    pub fn has_tag_on(self, day: Day) -> bool {
        (day == Day::COUNTER) == (self == Self::Counter)
    }
}

/// Whether a client may open anything at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Enabled,
    /// It may not, and is told apart from a stranger in the events.
    Disabled,
}

/// A secret that a client had before the one it has now, and that stays good for a while: for as long as it takes
/// to bring the new one to the device.
#[derive(Clone)]
pub struct OldKey {
    /// The secret.
    pub secret: Secret,
    /// From when on it is good no longer.
    pub until: Timestamp,
}

/// One client's entry.
#[derive(Clone)]
pub struct Client {
    /// Its name, which no other client has.
    pub name: ClientName,
    /// The secret that it shares with this daemon, and that no other client has.
    pub secret: Secret,
    /// The one before, while that is good. On the heap: of a million clients, few have one.
    pub old_key: Option<Box<OldKey>>,
    /// The services that it may open; each of them exists. Shared among clients that have the same.
    pub services: Arc<[ServiceName]>,
    /// The networks that it may knock from; empty for all.
    pub from: Vec<IpNet>,
    /// Which address it may open the door for.
    pub address: AddressPolicy,
    /// What keeps its packets from being accepted twice.
    pub clock: ClientClock,
    /// When its entry ends; `None` for never.
    pub expires: Option<Timestamp>,
    /// Whether it may open anything at all.
    pub standing: Standing,
}

/// All that the gate decides by, but for the clients.
#[derive(Clone)]
pub struct Policy {
    /// Separates gateways that share client secrets but not a replay memory.
    pub realm: Realm,
    /// How far a packet's timestamp may be off.
    pub clock_skew: ClockSkew,
    /// How grants are given.
    pub grant: GrantPolicy,
    /// Who is banned, and for how long.
    pub ban: BanPolicy,
    /// What can be opened.
    pub services: Vec<Service>,
    /// Bounds of the memory against replays.
    pub replay: ReplayLimits,
    /// Whether packets that ask for a reply get one.
    pub reply: ReplyPolicy,
}

#[cfg(test)]
mod tests {
    use common::OpenFor;

    use super::*;

    #[test]
    fn a_port_is_a_protocol_and_a_number_from_1_to_65535() {
        for good in ["tcp/1", "tcp/8883", "udp/65535"] {
            assert_eq!(good.parse::<Port>().unwrap().to_string(), good);
        }
        for bad in
            ["", "8883", "tcp/", "tcp/0", "tcp/65536", "tcp/+1", "TCP/1", "sctp/1", "tcp/1/2"]
        {
            assert_eq!(bad.parse::<Port>(), Err(InvalidPort), "{bad:?}");
        }
    }

    #[test]
    fn a_client_name_is_1_to_64_lower_case_letters_digits_dots_underscores_and_dashes() {
        for good in ["a", "press-17", "0.b_c", &"x".repeat(64)] {
            assert_eq!(good.parse::<ClientName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<ClientName>(), Err(InvalidClientName), "{bad:?}");
        }
    }

    #[test]
    fn a_door_opens_for_what_is_asked_or_the_default_and_never_for_more_than_the_maximum() {
        let policy = GrantPolicy {
            open_for: Duration::from_secs(30),
            max: Duration::from_secs(3600),
            per_client: NonZeroU32::MIN,
            sessions: Sessions::Keep,
        };
        for (asked, given) in [(0, 30), (1, 1), (3600, 3600), (3601, 3600), (u32::MAX, 3600)] {
            assert_eq!(policy.duration(OpenFor::from_secs(asked)).as_secs(), given, "{asked}");
        }
    }
}
