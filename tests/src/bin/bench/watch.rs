//! When an element came into the kernel's set of doors: the kernel tells whoever is in the group of
//! nftables changes, at the commit.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::gettid;

use crate::rig::Side;

/// NFNLGRP_NFTABLES (include/uapi/linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;

/// A watcher in a thread of its own, above all others in priority, so that it wakes at once.
pub(crate) struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<HashMap<Ipv4Addr, Instant>>,
}

impl Watch {
    /// Watches the broker's doors, on a core of its own if one is given.
    pub(crate) fn start(core: Option<usize>) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen_end = Arc::clone(&end);
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            Side::Broker.join(core);
            let mut socket = Socket::new(NETLINK_NETFILTER).expect("a netlink socket");
            socket.bind_auto().expect("bind a netlink socket");
            socket.add_membership(GROUP_NFTABLES).expect("join the group of nftables");
            configure(&socket);
            prioritize();
            ready.send(()).expect("the one who waits");
            let mut seen = HashMap::new();
            while !seen_end.load(Ordering::Relaxed) {
                let mut buffer = Vec::with_capacity(64 * 1024);
                if socket.recv(&mut buffer, 0).is_ok() {
                    let at = Instant::now();
                    for address in doors(&buffer) {
                        seen.entry(address).or_insert(at);
                    }
                }
            }
            seen
        });
        is_ready.recv().expect("the watcher");
        Self { end, thread }
    }

    /// When each address was let in first, until now.
    pub(crate) fn finish(self) -> HashMap<Ipv4Addr, Instant> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watcher")
    }
}

/// From each send to its door's opening.
pub(crate) fn times(
    sent: &[(Ipv4Addr, Instant)],
    seen: &HashMap<Ipv4Addr, Instant>,
) -> Vec<Duration> {
    let opened = sent.iter().filter_map(|(address, at)| Some((at, seen.get(address)?)));
    opened.map(|(sent, opened)| opened.saturating_duration_since(*sent)).collect()
}

fn configure(socket: &Socket) {
    setsockopt(socket, sockopt::RcvBufForce, &(32 << 20)).expect("a receive buffer");
    let limit = TimeVal::new(0, 50_000);
    setsockopt(socket, sockopt::ReceiveTimeout, &limit).expect("a time limit");
}

/// A real-time priority for the calling thread. Measuring must not wait for what is measured.
pub(crate) fn prioritize() {
    let status =
        Command::new("chrt").args(["--fifo", "--pid", "10", &gettid().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot set a real-time priority");
}

fn doors(buffer: &[u8]) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut rest = buffer;
    while rest.len() >= 16 {
        let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(rest) else { break };
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        let NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(message)),
            ..
        }) = message.payload
        else {
            continue;
        };
        let attributes = &message.attributes;
        if !attributes.iter().any(|a| matches!(a, SetElementList::Set(set) if set == "door4")) {
            continue;
        }
        for attribute in attributes {
            let SetElementList::Elements(elements) = attribute else { continue };
            for element in elements {
                let ListAttribute::Element(attributes) = element else { continue };
                found.extend(attributes.iter().filter_map(|attribute| match attribute {
                    SetElementAttribute::Key(DataAttribute::Value(key)) => {
                        Some(Ipv4Addr::from(*key.first_chunk::<4>()?))
                    }
                    _ => None,
                }));
            }
        }
    }
    found
}
