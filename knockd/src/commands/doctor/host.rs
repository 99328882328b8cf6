//! This host's interfaces, and by which of them devices come.

use std::{fs, net::IpAddr};

use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};

use super::{finding::Unable, rules::packet::IpFamily};

/// How interfaces of containers and virtual machines begin: Docker, Podman, LXC, libvirt, Incus, CNI.
const BRIDGES: [&str; 9] =
    ["docker", "br-", "podman", "lxcbr", "lxdbr", "virbr", "incusbr", "cni", "nerdctl"];

/// The host, as far as a packet's way depends on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) interfaces: Vec<Interface>,
}

/// An interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Its addresses, each with its network.
    pub(super) addresses: Vec<IpNet>,
    /// Whether a default route leads out by it.
    pub(super) is_way_out: bool,
    pub(super) is_loopback: bool,
    /// Its ports, if it is a bridge (net/bridge/br_sysfs_if.c).
    pub(super) bridged: Vec<String>,
}

impl Interface {
    /// Whether it leads to containers or virtual machines on this host.
    pub(super) fn is_bridge(&self) -> bool {
        BRIDGES.iter().any(|start| self.name.starts_with(start))
    }

    pub(super) fn has(&self, family: IpFamily) -> bool {
        self.addresses.iter().any(|net| IpFamily::of(net.addr()) == family)
    }
}

impl Host {
    /// Looks at it.
    ///
    /// # Errors
    /// [`Unable`] if the kernel doesn't list its addresses.
    pub(super) fn look() -> Result<Self, Unable> {
        let listed = getifaddrs()
            .map_err(|error| Unable::other(format!("the interfaces can't be listed: {error}")))?;
        let ways_out = ways_out();
        let mut interfaces: Vec<Interface> = Vec::new();
        for entry in listed {
            if !entry.flags.contains(InterfaceFlags::IFF_UP) {
                continue;
            }
            let index = interfaces
                .iter()
                .position(|interface| interface.name == entry.interface_name)
                .unwrap_or(interfaces.len());
            if index == interfaces.len() {
                interfaces.push(Interface {
                    is_way_out: ways_out.contains(&entry.interface_name),
                    is_loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                    bridged: bridged(&entry.interface_name),
                    name: entry.interface_name,
                    addresses: Vec::new(),
                });
            }
            let Some(address) = entry.address.as_ref().and_then(ip) else { continue };
            let mask = entry.netmask.as_ref().and_then(ip);
            let net = mask
                .and_then(|mask| IpNet::with_netmask(address, mask).ok())
                .unwrap_or_else(|| address.into());
            if let Some(interface) = interfaces.get_mut(index)
                && !is_link_local(address)
            {
                interface.addresses.push(net);
            }
        }
        Ok(Self { interfaces })
    }

    /// The interfaces that devices come in by: those of default routes; without any, all that lead outside.
    pub(super) fn outside(&self) -> Vec<&Interface> {
        let leads_out = |interface: &&Interface| {
            !interface.is_loopback && !interface.is_bridge() && !interface.addresses.is_empty()
        };
        let ways_out: Vec<_> =
            self.interfaces.iter().filter(|it| it.is_way_out && !it.is_loopback).collect();
        match ways_out.is_empty() {
            true => self.interfaces.iter().filter(leads_out).collect(),
            false => ways_out,
        }
    }

    /// All addresses of a family that devices can send to.
    pub(super) fn addresses(&self, family: IpFamily) -> Vec<IpAddr> {
        let outside = self.interfaces.iter().filter(|interface| !interface.is_loopback);
        let addresses = outside.flat_map(|interface| &interface.addresses).map(IpNet::addr);
        addresses.filter(|address| IpFamily::of(*address) == family).collect()
    }

    /// Whether an address is this host's own; link-local ones, which aren't kept, count as such.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let nets = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        is_link_local(address) || nets.into_iter().any(|net| net.addr() == address)
    }

    /// The interface of the network that an address is in.
    pub(super) fn towards(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.addresses.iter().any(|net| net.contains(&address)))
    }
}

fn bridged(name: &str) -> Vec<String> {
    let ports = fs::read_dir(format!("/sys/class/net/{name}/brif"));
    let names = ports.into_iter().flatten().flatten();
    names.map(|port| port.file_name().to_string_lossy().into_owned()).collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The interfaces of default routes: /proc/net/route and /proc/net/ipv6_route (proc(5)).
fn ways_out() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (ipv4, ipv6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    let of_ipv4 = ipv4.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let is_default = columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000");
        columns.first().filter(|_| is_default).map(|name| (*name).to_owned())
    });
    let of_ipv6 = ipv6.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let to_all = columns.first()?.bytes().all(|digit| digit == b'0');
        // Every host has a route of that form by lo, which rejects.
        let name = columns.last().filter(|name| **name != "lo")?;
        (to_all && columns.get(1) == Some(&"00")).then(|| (*name).to_owned())
    });
    of_ipv4.chain(of_ipv6).collect()
}
