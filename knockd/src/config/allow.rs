//! Who needs no knock: interfaces of this host, and networks.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

use super::{
    field::At,
    keys::{INTERFACES, NETWORKS},
    network,
    section::Section,
    source::Wrong,
};

/// Who needs no knock: monitoring, a VPN, the broker's own bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Interfaces that packets may come in by.
    pub interfaces: Vec<InterfaceName>,
    /// Networks that they may come from; some may lie within others.
    pub networks: Vec<IpNet>,
}

impl Allow {
    /// What the section says; `None` if it is wrong.
    pub(super) fn read(section: &mut Section<'_, '_, '_>) -> Option<Self> {
        let interfaces = section.texts(&INTERFACES, |text| {
            text.parse().map_err(|error: InvalidInterfaceName| {
                Wrong::new(format!(
                    "has something in it that no interface is called: a name is {error}"
                ))
            })
        });
        let networks = section.texts(&NETWORKS, network_or_wrong);
        let (interfaces, networks) = (interfaces.or(Vec::new())?, networks.or(Vec::new())?);
        Some(Self { interfaces: values(interfaces.value), networks: values(networks.value) })
    }
}

/// The network that a text of a list means.
pub(super) fn network_or_wrong(text: &str) -> Result<IpNet, Wrong> {
    network::parse(text).map_err(|error| match error.meant() {
        Some(meant) => Wrong::with(error.what(), format!("write \"{meant}\"")),
        None => Wrong::new(error.what()),
    })
}

/// A list's values without their places.
pub(super) fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

/// The name of a network interface: 1 to 15 printable ASCII characters but for `/`, `:`, `*`, `"`, `\`
/// and space, and not `.` or `..`.
///
/// The kernel takes a little more than that (`dev_valid_name`); the rest has a meaning of its own to nft.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(Box<str>);

/// A name that no interface can have, or none that is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("1 to 15 printable ASCII characters, without space and / : * \" \\")]
pub struct InvalidInterfaceName;

impl InterfaceName {
    /// Longest name in bytes: IFNAMSIZ without the zero byte at its end.
    pub const MAX_LEN: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(name: &str) -> Result<Self, InvalidInterfaceName> {
        let good = |byte: u8| byte.is_ascii_graphic() && !b"/:*\"\\".contains(&byte);
        let of_good_length = (1..=Self::MAX_LEN).contains(&name.len());
        if of_good_length && name.bytes().all(good) && name != "." && name != ".." {
            Ok(Self(name.into()))
        } else {
            Err(InvalidInterfaceName)
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_name_is_what_kernel_and_nft_both_take() {
        for good in ["lo", "eth0.17", "wg-plant_7", "br-0123456789ab", "@x"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", "a/b", "a b", "eth*", "a:b", "a\"b", "a\\", "é", "0123456789abcdef"]
        {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InvalidInterfaceName), "{bad:?}");
        }
    }
}
