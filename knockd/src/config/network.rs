//! Networks as text: `10.3.0.0/16`, `2001:db8::/32`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// Why a text is no network, and which network was probably meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It has another form.
    #[error("is not a network, as 10.3.0.0/16 or 2001:db8::/32")]
    Form,
    /// Numbers with leading zeros, which some programs read as octal.
    #[error(
        "has a number with leading zeros, which can be meant as octal: write it without, as 10.3.0.0/16"
    )]
    LeadingZeros,
    /// An address of one link alone.
    #[error("names an interface behind '%': write the network without, as fe80::/64")]
    Zone,
    /// It is an address.
    #[error("is an address without the length of a network's prefix: write {0}")]
    Address(IpNet),
    /// The address isn't the network's first.
    #[error("is not the first address of its network: write {0}")]
    HostBits(IpNet),
    /// An IPv4 network in its IPv6 form.
    #[error("is the IPv6 form of an IPv4 network: write {0}")]
    Mapped(IpNet),
}

impl InvalidNetwork {
    /// The network that was probably meant.
    pub(super) const fn meant(self) -> Option<IpNet> {
        match self {
            Self::Form | Self::LeadingZeros | Self::Zone => None,
            Self::Address(net) | Self::HostBits(net) | Self::Mapped(net) => Some(net),
        }
    }

    /// What is wrong, without what to write instead.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Form => "has something in it that is no network",
            Self::LeadingZeros => {
                "has a number with leading zeros in it, which can be meant as octal: write it without"
            }
            Self::Zone => {
                "has a network in it that names an interface behind '%': write it without"
            }
            Self::Address(_) => "has an address in it without the length of a prefix",
            Self::HostBits(_) => "has a network in it that isn't written with its first address",
            Self::Mapped(_) => "has an IPv4 network in it that is written as IPv6",
        }
    }
}

/// The network that a text means.
///
/// # Errors
/// [`InvalidNetwork`] if there is none or more than one way to understand it.
pub fn parse(text: &str) -> Result<IpNet, InvalidNetwork> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(InvalidNetwork::Address(IpNet::from(address.to_canonical())));
    }
    let (address, length) = text.split_once('/').ok_or_else(|| form(text))?;
    // Not the whole by ipnet, which takes 010 for 10.
    let address: IpAddr = address.parse().map_err(|_| form(text))?;
    let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|_| is_number).ok_or(InvalidNetwork::Form)?;
    let net = IpNet::new(address, length).map_err(|_| InvalidNetwork::Form)?;
    if let Some(v4) = mapped(net) {
        return Err(InvalidNetwork::Mapped(v4.trunc()));
    }
    if net.trunc() == net { Ok(net) } else { Err(InvalidNetwork::HostBits(net.trunc())) }
}

/// Why a text that is no network isn't one.
fn form(text: &str) -> InvalidNetwork {
    let is_zero_led = |part: &str| {
        part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let address = text.split('/').next().unwrap_or_default();
    if address.contains('%') {
        InvalidNetwork::Zone
    } else if !address.contains(':') && address.split('.').any(is_zero_led) {
        InvalidNetwork::LeadingZeros
    } else {
        InvalidNetwork::Form
    }
}

/// The IPv4 network whose IPv6 form (RFC 4291, section 2.5.5.2) this is.
fn mapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = net else { return None };
    let prefix = v6.prefix_len().checked_sub(96)?;
    let v4 = Ipv6Addr::to_ipv4_mapped(&v6.addr())?;
    Ipv4Net::new(v4, prefix).ok().map(IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_its_first_address_and_the_length_of_its_prefix() {
        for text in ["0.0.0.0/0", "10.3.0.0/16", "192.0.2.7/32", "2001:db8::/32", "::/0"] {
            assert_eq!(parse(text).map(|net| net.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_with_why() {
        for (text, why) in [
            ("192.168.010.005", InvalidNetwork::LeadingZeros),
            ("10.03.0.0/16", InvalidNetwork::LeadingZeros),
            ("192.168.010.005/32", InvalidNetwork::LeadingZeros),
            ("fe80::1%eth0", InvalidNetwork::Zone),
            ("0x7f.1", InvalidNetwork::Form),
            ("3232235777", InvalidNetwork::Form),
            ("10.1", InvalidNetwork::Form),
            ("10.0.0.0/+8", InvalidNetwork::Form),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn what_is_nearly_a_network_comes_with_the_network_that_was_meant() {
        for (text, meant) in [
            ("10.3.0.1/16", Some("10.3.0.0/16")),
            ("10.3.0.1", Some("10.3.0.1/32")),
            ("2001:db8::1/32", Some("2001:db8::/32")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("::ffff:10.3.0.0/112", Some("10.3.0.0/16")),
            ("::ffff:10.3.0.1", Some("10.3.0.1/32")),
            ("10.3.0.0/33", None),
            ("10.3.0/16", None),
            ("press-17", None),
            ("", None),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.meant().map(|net| net.to_string()).as_deref(), meant, "{text}");
        }
    }
}
