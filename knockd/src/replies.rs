//! Sends replies, where they are on: the only place that ever sends anything to the network.
//!
//! # Security considerations
//! - What is sent was sealed for one packet that was accepted in full ([`crate::admission::ReplyDue`]), goes to where
//!   that packet came from, from the address that it was sent to, and is shorter than it: nothing to amplify with.
//! - Nothing waits for it. A reply that the kernel doesn't take at once is dropped, and counted.

use std::{collections::HashMap, io, os::fd::AsRawFd as _};

use common::{NONCE_LEN, Nonce};
use nix::sys::socket::{MsgFlags, sendmsg};
use tracing::debug;

use crate::{
    admission::{PacketId, ReplyDue},
    counts::Counts,
    listener::{KeptWay, Listener, WayBack},
};

/// The ways back to who sent packets that wait for the disk.
#[derive(Default)]
pub struct Ways(HashMap<PacketId, KeptWay>);

impl Ways {
    /// Keeps those of the batch that the listener holds.
    pub fn keep(&mut self, packets: impl Iterator<Item = PacketId>, listener: &Listener) {
        self.0.extend(packets.filter_map(|id| Some((id, listener.keep_way(id.at)?))));
    }

    /// Lets go of those of packets that wait no longer.
    pub fn forget(&mut self, waits: impl Fn(PacketId) -> bool) {
        self.0.retain(|id, _| waits(*id));
    }
}

/// Sends these replies, to the batch that the listener holds or by ways that were kept, and counts them.
pub fn send(replies: Vec<ReplyDue>, ways: &Ways, listener: &Listener, counts: &mut Counts) {
    for due in replies {
        let way = match ways.0.get(&due.packet) {
            Some(kept) => listener.kept(kept),
            None => listener.way_back(due.packet.at),
        };
        match way.map_or_else(no_way_back, |way| send_one(&due, &way)) {
            Ok(()) => counts.replies_sent += 1,
            Err(error) => {
                debug!(event = "reply-dropped", "a reply was dropped: {error}");
                counts.replies_dropped += 1;
            }
        }
    }
}

fn no_way_back() -> io::Result<()> {
    Err(io::Error::other("there is no way back"))
}

fn send_one(due: &ReplyDue, way: &WayBack<'_>) -> io::Result<()> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let reply = due.seal(Nonce::from_random(nonce));
    let parts = [io::IoSlice::new(&reply)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let from = [way.from.message()];
    sendmsg(way.socket.as_raw_fd(), &parts, &from, flags, Some(way.to))?;
    Ok(())
}
