//! Waits for the replies that `--reply` asks for. PROTOCOL.md, "Reply".
//!
//! # Security considerations
//! - A reply counts only if it opens with this device's keys for a packet that this run sent: a copy of an earlier
//!   one, or anything else that comes in, is passed over.
//! - Packets that go out again are fresh ones, after a second and then after twice as long each time: the server sees
//!   no more of them than the time allows for.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use common::{Datagram, REPLY_LEN, Reply, ReplyKeys};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::socket::{MsgFlags, recv},
};

use crate::{
    exit::Error,
    packet::Packet,
    plan::Plan,
    send::{Outcome, Route, send_once},
    wait,
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

/// The replies that are waited for. Times are those of the caller's clock.
pub(crate) struct Replies {
    keys: ReplyKeys,
    all: Vec<Waiting>,
    patience: Duration,
    /// When packets without a reply are followed by others.
    again: Duration,
    ends: Duration,
}

/// What is waited for at one address of the server.
struct Waiting {
    route: Rc<Route>,
    /// The packets that went there, and when.
    sent: Vec<(Packet, Duration)>,
    replied: Option<Replied>,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replies(..)")
    }
}

impl Replies {
    /// Those to what was sent just now, for as long as `limit`.
    pub(crate) fn to(plan: &Plan, outcomes: &[Outcome], now: Duration, limit: Duration) -> Self {
        let waiting = |outcome: &Outcome| Waiting {
            route: Rc::clone(&outcome.route),
            sent: outcome.packets.iter().map(|packet| (*packet, now)).collect(),
            replied: None,
        };
        let all =
            outcomes.iter().filter(|outcome| !outcome.packets.is_empty()).map(waiting).collect();
        Self {
            keys: ReplyKeys::of(&plan.keys),
            all,
            patience: FIRST_PATIENCE,
            again: now + FIRST_PATIENCE,
            ends: now + limit,
        }
    }

    /// Takes what has come in, and sends again what had no reply for a while.
    pub(crate) fn look(&mut self, plan: &mut Plan, now: Duration) -> Result<(), Error> {
        for waiting in &mut self.all {
            waiting.look(&self.keys, now);
        }
        if self.replied().next().is_some() {
            self.ends = self.ends.min(now + GRACE);
            self.again = self.ends;
        } else if now >= self.again && now < self.ends {
            for waiting in &mut self.all {
                waiting.send_again(plan, now)?;
            }
            self.patience *= 2;
            self.again = now + self.patience;
        }
        Ok(())
    }

    /// What becomes readable with a reply.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let waiting = self.all.iter().filter(|waiting| waiting.replied.is_none());
        waiting.map(|waiting| waiting.route.socket())
    }

    /// When to look again at the latest.
    pub(crate) fn due(&self) -> Duration {
        self.again.min(self.ends)
    }

    /// Whether every address has replied that something was sent to, or one has and the others had their time, or
    /// there is none in time.
    pub(crate) fn are_over(&self, now: Duration) -> bool {
        now >= self.ends || self.all.iter().all(|waiting| waiting.replied.is_some())
    }

    /// Those that came.
    pub(crate) fn replied(&self) -> impl Iterator<Item = Replied> {
        self.all.iter().filter_map(|waiting| waiting.replied)
    }

    /// Waits for them; `start` is what their time is counted from.
    pub(crate) fn wait(mut self, plan: &mut Plan, start: Instant) -> Result<Vec<Replied>, Error> {
        loop {
            let now = start.elapsed();
            self.look(plan, now)?;
            if self.are_over(now) {
                return Ok(self.replied().collect());
            }
            let mut fds: Vec<_> = self.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            wait::rest(&mut fds, self.due().saturating_sub(now))?;
        }
    }
}

impl Waiting {
    /// Takes what has come in.
    fn look(&mut self, keys: &ReplyKeys, now: Duration) {
        let mut bytes = [0; REPLY_LEN + 1];
        while self.replied.is_none() {
            match recv(self.route.socket().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let received = bytes.get(..length).unwrap_or_default();
                    self.replied = self.answer_in(received, keys, now);
                }
                // That an earlier datagram met no listener says nothing of the next.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The reply in these bytes, if it is one to a packet that was sent.
    fn answer_in(&self, bytes: &[u8], keys: &ReplyKeys, now: Duration) -> Option<Replied> {
        self.sent.iter().rev().find_map(|(packet, at)| {
            let request = Datagram::parse(&packet.datagram).ok()?.mac();
            let reply = Reply::open(bytes, keys, request).ok()?;
            let after = now.saturating_sub(*at);
            let clock_offset_ms = offset(reply, after);
            Some(Replied { by: self.route.to, reply, after, clock_offset_ms })
        })
    }

    fn send_again(&mut self, plan: &mut Plan, now: Duration) -> Result<(), Error> {
        if self.replied.is_none()
            && let Some(packet) = send_once(plan, &self.route)?
        {
            self.sent.push((packet, now));
        }
        Ok(())
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

/// That there was none.
pub(crate) fn none(limit: Duration) -> Error {
    Error::NoReply(format!(
        "no reply came within {limit:?}: the packet was lost or refused (the journal of knockd says which), or replies are off there (reply.enabled in knockd.toml)"
    ))
}

/// Says of a door that stays shut what a reply tells of it: who replies has opened it.
pub(crate) fn explained(error: Error, replies: &[Replied]) -> Error {
    match (error, replies.first()) {
        (Error::NotOpen(text), Some(replied)) => {
            let seen = replied.reply.seen;
            Error::NotOpen(format!(
                "{text}. But the knock came from {seen} and is granted: the connection comes from elsewhere, or something on the way keeps it off. Where routers or links give UDP and TCP different addresses (carriers, two uplinks, a proxy), have both go the same way; `tcpdump 'tcp[13] = 2'` on the broker's host shows where connections come from"
            ))
        }
        (error, _) => error,
    }
}
