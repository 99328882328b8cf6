//! The 48 sealed bytes, as typed values. PROTOCOL.md, "Request".

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
};

use crate::{
    error::Malformed,
    time::{Day, Timestamp},
};

/// Length of a request in bytes.
pub const REQUEST_LEN: usize = 48;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the packet was made, or the counter of a client without a clock.
    pub timestamp: Timestamp,
    /// The address that the door is to open for.
    pub address: ClientAddress,
    /// For how long.
    pub open_for: OpenFor,
    /// Open or close.
    pub action: Action,
    /// Whether a reply is wanted.
    pub reply: ReplyWanted,
    /// The service; `None` asks for every service that this client may open.
    pub service: Option<ServiceName>,
}

/// The address that the door is to open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// The source that the daemon sees (all zero on the wire); a policy of the client's entry allows it.
    Observed,
    /// This address, which must be the datagram's source.
    Literal(UnicastAddress),
}

/// An address that a client can have: not unspecified, multicast, broadcast, loopback or link-local.
///
/// An IPv4 address in its IPv6 form (::ffff:a.b.c.d) is held as IPv4, so that equal addresses compare
/// as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnicastAddress(IpAddr);

/// An address that no client can have, and what it is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// 0.0.0.0 or ::
    #[error("an unspecified address")]
    Unspecified,
    /// 224.0.0.0/4 or ff00::/8
    #[error("a multicast address")]
    Multicast,
    /// 255.255.255.255
    #[error("a broadcast address")]
    Broadcast,
    /// 127.0.0.0/8 or ::1
    #[error("a loopback address")]
    Loopback,
    /// 169.254.0.0/16 or fe80::/10
    #[error("a link-local address")]
    LinkLocal,
}

impl UnicastAddress {
    /// The address itself; never the IPv6 form of an IPv4 address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    pub(crate) fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }
    }
}

impl TryFrom<IpAddr> for UnicastAddress {
    type Error = InvalidAddress;

    fn try_from(address: IpAddr) -> Result<Self, InvalidAddress> {
        let address = address.to_canonical();
        let (broadcast, link_local) = match address {
            IpAddr::V4(v4) => (v4 == Ipv4Addr::BROADCAST, v4.is_link_local()),
            IpAddr::V6(v6) => (false, v6.is_unicast_link_local()),
        };
        if address.is_unspecified() {
            Err(InvalidAddress::Unspecified)
        } else if address.is_multicast() {
            Err(InvalidAddress::Multicast)
        } else if broadcast {
            Err(InvalidAddress::Broadcast)
        } else if address.is_loopback() {
            Err(InvalidAddress::Loopback)
        } else if link_local {
            Err(InvalidAddress::LinkLocal)
        } else {
            Ok(Self(address))
        }
    }
}

impl fmt::Display for UnicastAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long the door is to stay open; the daemon caps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// As long as the daemon opens by default (0 on the wire).
    Default,
    /// This many seconds.
    Seconds(NonZeroU32),
}

impl OpenFor {
    /// The seconds asked for; 0 is the daemon's default.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        match NonZeroU32::new(seconds) {
            Some(seconds) => Self::Seconds(seconds),
            None => Self::Default,
        }
    }

    /// The seconds as they stand on the wire.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::Seconds(seconds) => seconds.get(),
        }
    }
}

/// What is to happen to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open it, or keep it open for longer.
    Open,
    /// End the client's own grant at once.
    Close,
}

/// Whether the client waits for a reply (flags bit 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyWanted {
    /// Nothing is to come back.
    No,
    /// A sealed reply is wanted, where the daemon's replies are on.
    Yes,
}

/// Longest name of a service in bytes.
pub const SERVICE_NAME_MAX: usize = 16;

/// A service's name: `[a-z0-9][a-z0-9._-]*`, 1 to 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Padded with zero bytes, as on the wire; always ASCII.
    bytes: [u8; SERVICE_NAME_MAX],
}

/// A name that no service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a service's name is 1 to 16 of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub struct InvalidServiceName;

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(SERVICE_NAME_MAX);
        self.bytes.get(..end).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// From the padded form of the wire; `None` inside for all zero, which names no service.
    fn from_padded(bytes: [u8; SERVICE_NAME_MAX]) -> Result<Option<Self>, InvalidServiceName> {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let name = parts.next().unwrap_or_default();
        if parts.next().unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Err(InvalidServiceName);
        }
        if name.is_empty() {
            return Ok(None);
        }
        let starts_well = name.first().is_some_and(|first| is_alphanumeric(*first));
        if starts_well && name.iter().all(|byte| is_alphanumeric(*byte) || b"._-".contains(byte)) {
            Ok(Some(Self { bytes }))
        } else {
            Err(InvalidServiceName)
        }
    }
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

impl FromStr for ServiceName {
    type Err = InvalidServiceName;

    fn from_str(name: &str) -> Result<Self, InvalidServiceName> {
        let mut bytes = [0; SERVICE_NAME_MAX];
        bytes.get_mut(..name.len()).ok_or(InvalidServiceName)?.copy_from_slice(name.as_bytes());
        if name.as_bytes().contains(&0) {
            return Err(InvalidServiceName);
        }
        Self::from_padded(bytes)?.ok_or(InvalidServiceName)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

const ACTION_OPEN: u8 = 1;
const ACTION_CLOSE: u8 = 2;
const FLAG_REPLY: u8 = 1;

impl Request {
    /// The request's 48 bytes, before they are sealed.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; REQUEST_LEN] {
        let address = match self.address {
            ClientAddress::Observed => [0; 16],
            ClientAddress::Literal(address) => address.octets(),
        };
        let action = match self.action {
            Action::Open => ACTION_OPEN,
            Action::Close => ACTION_CLOSE,
        };
        let flags = match self.reply {
            ReplyWanted::No => 0,
            ReplyWanted::Yes => FLAG_REPLY,
        };
        let mut bytes = [0; REQUEST_LEN];
        let mut rest = bytes.as_mut_slice();
        for field in [
            self.timestamp.as_millis().to_be_bytes().as_slice(),
            address.as_slice(),
            self.open_for.as_secs().to_be_bytes().as_slice(),
            [action, flags, 0, 0].as_slice(),
            self.service.map_or([0; SERVICE_NAME_MAX], |name| name.bytes).as_slice(),
        ] {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        bytes
    }

    /// Step 5: the request that these bytes hold, sent under a tag of `day`.
    ///
    /// # Errors
    /// [`Malformed`] names the first field that is not as the format has it.
    pub fn from_bytes(bytes: &[u8; REQUEST_LEN], day: Day) -> Result<Self, Malformed> {
        let (timestamp, rest) = take(bytes);
        let (address, rest) = take(rest);
        let (open_for, rest) = take(rest);
        let ([action, flags, reserved @ ..], rest): ([u8; 4], _) = take(rest);
        let (service, _) = take(rest);

        let timestamp = Timestamp::from_millis(u64::from_be_bytes(timestamp));
        if day != Day::COUNTER && Day::of(timestamp) != Some(day) {
            return Err(Malformed::Day);
        }
        if reserved != [0, 0] {
            return Err(Malformed::Reserved);
        }
        Ok(Self {
            timestamp,
            address: address_from_octets(address)?,
            open_for: OpenFor::from_secs(u32::from_be_bytes(open_for)),
            action: match action {
                ACTION_OPEN => Action::Open,
                ACTION_CLOSE => Action::Close,
                _ => return Err(Malformed::Action),
            },
            reply: match flags {
                0 => ReplyWanted::No,
                FLAG_REPLY => ReplyWanted::Yes,
                _ => return Err(Malformed::Flags),
            },
            service: ServiceName::from_padded(service).map_err(|_| Malformed::Service)?,
        })
    }
}

fn address_from_octets(octets: [u8; 16]) -> Result<ClientAddress, Malformed> {
    if octets == [0; 16] {
        return Ok(ClientAddress::Observed);
    }
    UnicastAddress::try_from(IpAddr::V6(Ipv6Addr::from(octets)))
        .map(ClientAddress::Literal)
        .map_err(|_| Malformed::Address)
}

/// The first `N` bytes, and what is behind them. The layout's lengths add up to [`REQUEST_LEN`], so
/// that bytes never run out; were they to, the field would read as zero.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    match bytes.split_first_chunk::<N>() {
        Some((field, rest)) => (*field, rest),
        None => ([0; N], &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_1_to_16_lower_case_letters_digits_dots_underscores_and_dashes() {
        for good in ["a", "0", "mqtts", "a.b_c-d", "0123456789abcdef"] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "-a", ".a", "_a", "a b", "a\0", "\0", "é", "0123456789abcdefg"] {
            assert_eq!(bad.parse::<ServiceName>(), Err(InvalidServiceName), "{bad:?}");
        }
    }

    #[test]
    fn an_address_that_no_client_can_have_is_refused_in_both_families() {
        for (address, why) in [
            ("0.0.0.0", InvalidAddress::Unspecified),
            ("::", InvalidAddress::Unspecified),
            ("::ffff:0.0.0.0", InvalidAddress::Unspecified),
            ("224.0.0.1", InvalidAddress::Multicast),
            ("ff02::1", InvalidAddress::Multicast),
            ("255.255.255.255", InvalidAddress::Broadcast),
            ("127.0.0.1", InvalidAddress::Loopback),
            ("::ffff:127.8.8.8", InvalidAddress::Loopback),
            ("::1", InvalidAddress::Loopback),
            ("169.254.1.1", InvalidAddress::LinkLocal),
            ("fe80::1", InvalidAddress::LinkLocal),
            ("febf::1", InvalidAddress::LinkLocal),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(UnicastAddress::try_from(address), Err(why), "{address}");
        }
    }

    #[test]
    fn an_ipv4_address_in_its_ipv6_form_is_that_ipv4_address() {
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let plain: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(UnicastAddress::try_from(mapped).unwrap().ip(), plain);
    }
}
