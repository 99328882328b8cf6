//! Hears from the kernel when an address, a route or a link of this device changes: rtnetlink(7).
//!
//! # Security considerations
//! What isn't from the kernel is left out. The most that a notice can bring about is a look at the routes, and one
//! knock.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom,
        send, socket,
    },
};

use crate::keep::notices::{Change, Known};

/// What one receive takes at most; the kernel sends no notice that is nearly as long.
const RECEIVE_LEN: usize = 16 * 1024;

/// RTM_GETLINK, RTM_GETADDR and RTM_GETROUTE.
const QUESTIONS: [u16; 3] = [18, 22, 26];
/// NLM_F_REQUEST and NLM_F_DUMP.
const ALL: u16 = 0x301;
/// sizeof(struct nlmsghdr), and of struct rtgenmsg as it is aligned.
const QUESTION_LEN: u8 = 20;

/// The kernel's notices.
#[derive(Debug)]
pub(super) struct Network {
    socket: OwnedFd,
    buffer: Vec<u8>,
    known: Known,
}

impl Network {
    /// Begins to listen, in this process's network namespace. What is there already is no news.
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
        let mut network = Self { socket, buffer: vec![0; RECEIVE_LEN], known: Known::default() };
        for question in QUESTIONS {
            // Without an answer, the first notice of each is news, and no more than that.
            if send(network.socket.as_raw_fd(), &dump(question), MsgFlags::empty()).is_ok() {
                network.changes();
            }
        }
        Ok(network)
    }

    /// Reads all notices that there are; of several the weightiest counts.
    pub(super) fn changes(&mut self) -> Option<Change> {
        let mut change = None;
        loop {
            let received = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer);
            match received {
                Ok((length, Some(from))) if from.pid() == 0 => {
                    let notices = self.buffer.get(..length).unwrap_or_default();
                    change = change.max(self.known.read(notices));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    self.known.clear();
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

/// A question for all there are, of every family: struct nlmsghdr with struct rtgenmsg. The kernel answers with what
/// its notices would say.
fn dump(question: u16) -> [u8; QUESTION_LEN as usize] {
    let mut message = [0; QUESTION_LEN as usize];
    let length = u32::from(QUESTION_LEN).to_ne_bytes();
    let head = length.into_iter().chain(question.to_ne_bytes()).chain(ALL.to_ne_bytes());
    for (byte, from) in message.iter_mut().zip(head) {
        *byte = from;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gives_such_a_socket_to_everybody_and_says_what_is_there() {
        let mut network = Network::listen().unwrap();
        assert_eq!(network.changes(), None);
        // The question again: nothing of the answer is news.
        for question in QUESTIONS {
            send(network.socket.as_raw_fd(), &dump(question), MsgFlags::empty()).unwrap();
            assert_eq!(network.changes(), None, "{question}");
        }
    }
}
