//! Waits for the reply that `--reply` asks for. PROTOCOL.md, "Reply".
//!
//! # Security considerations
//! - A reply counts only if it opens with this device's keys for a packet that this run sent: a copy of an earlier
//!   one, or anything else that comes in, is passed over.
//! - Packets that go out again are fresh ones, after a second and then after twice as long each time: the server sees
//!   no more of them than the time allows for.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    time::{Duration, Instant, SystemTime},
};

use common::{Datagram, REPLY_LEN, Reply, ReplyKeys};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};

use crate::{
    exit::Error,
    packet::Packet,
    plan::Plan,
    send::{Outcome, Route, send_once},
};

/// After which time a packet without a reply is followed by another one.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long the other addresses of the server have, once one has replied.
const GRACE: Duration = Duration::from_millis(200);

/// A reply that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replied {
    pub(crate) by: SocketAddr,
    pub(crate) reply: Reply,
    /// After which time from the packet that it answers.
    pub(crate) after: Duration,
    /// The server's clock less this device's, in milliseconds: exact to half of `after`.
    pub(crate) clock_offset_ms: i64,
}

/// What is waited for at one address of the server.
struct Waiting<'a> {
    route: &'a Route,
    /// The packets that went there, and when.
    sent: Vec<(Packet, Instant)>,
    replied: Option<Replied>,
}

/// Waits until every address has replied that something was sent to, or one has and [`GRACE`] is over, or there is
/// none within `limit`.
pub(crate) fn wait(
    plan: &Plan,
    outcomes: &[&Outcome<'_>],
    limit: Duration,
) -> Result<Vec<Replied>, Error> {
    let keys = ReplyKeys::of(&plan.keys);
    let start = Instant::now();
    let mut all: Vec<Waiting<'_>> = outcomes
        .iter()
        .map(|outcome| Waiting {
            route: outcome.route,
            sent: outcome.packets.iter().map(|packet| (*packet, start)).collect(),
            replied: None,
        })
        .collect();
    let mut end = start + limit;
    let (mut patience, mut again) = (FIRST_PATIENCE, start + FIRST_PATIENCE);
    loop {
        for waiting in &mut all {
            waiting.look(&keys);
        }
        let replied = all.iter().filter(|waiting| waiting.replied.is_some()).count();
        let now = Instant::now();
        if replied > 0 {
            end = end.min(now + GRACE);
            again = end;
        }
        if replied == all.len() || now >= end {
            break;
        }
        if now >= again {
            for waiting in &mut all {
                waiting.send_again(plan)?;
            }
            patience *= 2;
            again = now + patience;
        }
        rest(&all, again.min(end).saturating_duration_since(Instant::now()))?;
    }
    let replies: Vec<Replied> = all.iter().filter_map(|waiting| waiting.replied).collect();
    if replies.is_empty() { Err(no_reply(limit)) } else { Ok(replies) }
}

impl Waiting<'_> {
    /// Takes what has come in.
    fn look(&mut self, keys: &ReplyKeys) {
        let mut bytes = [0; REPLY_LEN + 1];
        while self.replied.is_none() {
            match recv(self.route.socket().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let received = bytes.get(..length).unwrap_or_default();
                    self.replied = self.answer_in(received, keys);
                }
                // That an earlier datagram met no listener says nothing of the next.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The reply in these bytes, if it is one to a packet that was sent.
    fn answer_in(&self, bytes: &[u8], keys: &ReplyKeys) -> Option<Replied> {
        self.sent.iter().rev().find_map(|(packet, at)| {
            let request = Datagram::parse(&packet.datagram).ok()?.mac();
            let reply = Reply::open(bytes, keys, request).ok()?;
            let after = at.elapsed();
            let clock_offset_ms = offset(reply, after);
            Some(Replied { by: self.route.to, reply, after, clock_offset_ms })
        })
    }

    fn send_again(&mut self, plan: &Plan) -> Result<(), Error> {
        if self.replied.is_none()
            && let Some(packet) = send_once(plan, self.route)?
        {
            self.sent.push((packet, Instant::now()));
        }
        Ok(())
    }
}

/// Waits until something comes in, for at most this long.
fn rest(all: &[Waiting<'_>], time: Duration) -> Result<(), Error> {
    let waiting = all.iter().filter(|waiting| waiting.replied.is_none());
    let mut sockets: Vec<PollFd<'_>> =
        waiting.map(|waiting| PollFd::new(waiting.route.socket(), PollFlags::POLLIN)).collect();
    // A millisecond more, so that the time is over when this returns.
    let time = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut sockets, time) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => {
            Err(Error::System(format!("can't wait for a reply: {}", io::Error::from(error))))
        }
    }
}

/// The server's clock less this device's: the reply was made in the middle of its round trip, as far as one can tell.
fn offset(reply: Reply, after: Duration) -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let then = since_epoch.saturating_sub(after / 2);
    let own = i128::try_from(then.as_millis()).unwrap_or(i128::MAX);
    let server = i128::from(reply.clock.as_millis());
    i64::try_from(server - own).unwrap_or(if server > own { i64::MAX } else { i64::MIN })
}

fn no_reply(limit: Duration) -> Error {
    Error::NoReply(format!(
        "no reply came within {limit:?}: the packet was lost or refused (the journal of knockd says which), or replies are off there (reply.enabled in knockd.toml)"
    ))
}
