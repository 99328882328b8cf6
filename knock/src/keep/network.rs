//! Hears from the kernel when an address, a route or a link of this device changes: rtnetlink(7).
//!
//! Layouts: include/uapi/linux/{netlink,rtnetlink,if_link}.h. Only fixed headers are read, and no attribute.
//!
//! # Security considerations
//! What isn't from the kernel is left out, and no bytes whatever in place of a message make this panic or loop.
//! The most that one can bring about is a look at the routes, and one knock.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
    },
};

/// What one receive takes at most; the kernel sends no notice that is nearly as long.
const RECEIVE_LEN: usize = 16 * 1024;

/// sizeof(struct nlmsghdr)
const HEADER_LEN: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// RTN_UNICAST, and RTM_F_CLONED: a route that is a cache of another one.
const UNICAST: u8 = 1;
const CLONED: u32 = 0x200;
/// IFF_RUNNING: the link has a carrier.
const RUNNING: u32 = 0x40;

/// Links whose state is remembered; of more, any notice counts as one that it runs.
const MAX_LINKS: usize = 256;

/// What a notice is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Something that may have given this device another way to the server: worth a look at the routes.
    Perhaps,
    /// The default route changed, or notices were lost: this may be another network that gives the same local
    /// address, so what is known of the way is void.
    Certain,
}

/// The kernel's notices.
#[derive(Debug)]
pub(super) struct Network {
    socket: OwnedFd,
    buffer: Vec<u8>,
    links: Links,
}

impl Network {
    /// Begins to listen, in this process's network namespace.
    ///
    /// # Errors
    /// If the system gives no such socket.
    pub(super) fn listen() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.unsigned_abs()))?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_LEN], links: Links::default() })
    }

    /// Reads all notices that there are; of several the weightiest counts.
    pub(super) fn changes(&mut self) -> Option<Change> {
        let mut change = None;
        loop {
            let received = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer);
            match received {
                Ok((length, Some(from))) if from.pid() == 0 => {
                    let notices = self.buffer.get(..length).unwrap_or_default();
                    change = change.max(read(notices, &mut self.links));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    self.links = Links::default();
                    change = Some(Change::Certain);
                }
                // Nothing is left to read.
                Err(_) => return change,
            }
        }
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The links that are known to run: notices of a link come for many reasons, of which only its coming counts.
#[derive(Debug, Default)]
struct Links(Vec<[u8; 4]>);

impl Links {
    /// Takes a link's state up, and tells whether it has begun to run.
    fn has_begun(&mut self, index: [u8; 4], runs: bool) -> bool {
        let known = self.0.iter().position(|link| *link == index);
        match (known, runs) {
            (None, true) => {
                if self.0.len() < MAX_LINKS {
                    self.0.push(index);
                }
                true
            }
            (Some(known), false) => {
                self.0.swap_remove(known);
                false
            }
            (Some(_), true) | (None, false) => false,
        }
    }
}

/// What one receive's notices are worth.
fn read(mut notices: &[u8], links: &mut Links) -> Option<Change> {
    let mut change = None;
    while let Some((header, _)) = notices.split_first_chunk::<HEADER_LEN>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = notices.get(HEADER_LEN..length) else { break };
        change = change.max(worth(u16::from_ne_bytes([t0, t1]), body, links));
        // Messages are aligned to four bytes: NLMSG_ALIGN.
        notices = notices.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    change
}

fn worth(kind: u16, body: &[u8], links: &mut Links) -> Option<Change> {
    match kind {
        RTM_NEWADDR | RTM_DELADDR => Some(Change::Perhaps),
        RTM_NEWROUTE | RTM_DELROUTE => {
            // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
            let [_, to_len, _, _, _, _, _, kind, f0, f1, f2, f3] = *body.first_chunk()?;
            if u32::from_ne_bytes([f0, f1, f2, f3]) & CLONED != 0 {
                None
            } else if to_len == 0 && kind == UNICAST {
                Some(Change::Certain)
            } else {
                Some(Change::Perhaps)
            }
        }
        RTM_NEWLINK | RTM_DELLINK => {
            // struct ifinfomsg: family, padding, type (2), index (4), flags (4), change
            let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3] = *body.first_chunk()?;
            let runs = kind == RTM_NEWLINK && u32::from_ne_bytes([f0, f1, f2, f3]) & RUNNING != 0;
            links.has_begun([i0, i1, i2, i3], runs).then_some(Change::Perhaps)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notice(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn route(to_len: u8, flags: u32) -> Vec<u8> {
        let body = [&[2, to_len, 0, 0, 254, 3, 0, UNICAST][..], &flags.to_ne_bytes()].concat();
        notice(RTM_NEWROUTE, &body)
    }

    fn link(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let body = [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat();
        notice(kind, &body)
    }

    #[test]
    fn a_default_route_weighs_more_than_an_address_or_another_route() {
        let mut links = Links::default();
        let address = notice(RTM_NEWADDR, &[0; 8]);
        assert_eq!(read(&address, &mut links), Some(Change::Perhaps));
        assert_eq!(read(&route(24, 0), &mut links), Some(Change::Perhaps));
        assert_eq!(read(&route(0, 0), &mut links), Some(Change::Certain));
        assert_eq!(read(&route(0, CLONED), &mut links), None);
        let both = [route(0, 0), address].concat();
        assert_eq!(read(&both, &mut links), Some(Change::Certain));
    }

    #[test]
    fn a_link_counts_when_it_begins_to_run_and_not_each_time_it_is_told() {
        let mut links = Links::default();
        for (kind, flags, expected) in [
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
            (RTM_NEWLINK, RUNNING, None),
            (RTM_NEWLINK, 0, None),
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
            (RTM_DELLINK, RUNNING, None),
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
        ] {
            assert_eq!(read(&link(kind, 7, flags), &mut links), expected);
        }
    }

    #[test]
    fn what_is_remembered_of_links_is_bounded() {
        let mut links = Links::default();
        for index in 0..10_000 {
            read(&link(RTM_NEWLINK, index, RUNNING), &mut links);
        }
        assert_eq!(links.0.len(), MAX_LINKS);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes: Vec<u8>, kind: u16, body: Vec<u8>) {
            let mut links = Links::default();
            let _ = read(&bytes, &mut links);
            let _ = read(&notice(kind, &body), &mut links);
        }
    }

    #[test]
    fn the_kernel_gives_such_a_socket_to_everybody_and_it_is_silent_while_nothing_changes() {
        assert_eq!(Network::listen().unwrap().links.0.len(), 0);
    }
}
