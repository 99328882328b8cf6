//! Sends replies, where they are on: the only place that ever sends anything to the network.
//!
//! # Security considerations
//! - What is sent was sealed for one packet that was accepted in full ([`crate::admission::ReplyDue`]), goes to where
//!   that packet came from, from the address that it was sent to, and is shorter than it: nothing to amplify with.
//! - Nothing waits for it. A reply that the kernel doesn't take at once is dropped, and counted.

use std::{io, os::fd::AsRawFd as _};

use common::{NONCE_LEN, Nonce};
use nix::sys::socket::{MsgFlags, sendmsg};
use tracing::debug;

use crate::{admission::ReplyDue, counts::Counts, listener::Listener};

/// Sends these replies to the batch that the listener holds, and counts them.
pub fn send(replies: Vec<ReplyDue>, listener: &Listener, counts: &mut Counts) {
    for due in replies {
        match send_one(&due, listener) {
            Ok(()) => counts.replies_sent += 1,
            Err(error) => {
                debug!(event = "reply-dropped", "a reply was dropped: {error}");
                counts.replies_dropped += 1;
            }
        }
    }
}

fn send_one(due: &ReplyDue, listener: &Listener) -> io::Result<()> {
    let way = listener.way_back(due.at).ok_or_else(|| io::Error::other("there is no way back"))?;
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let reply = due.seal(Nonce::from_random(nonce));
    let parts = [io::IoSlice::new(&reply)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let from = [way.from.message()];
    sendmsg(way.socket.as_raw_fd(), &parts, &from, flags, Some(way.to))?;
    Ok(())
}
