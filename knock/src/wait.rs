//! Waits for the door: connects afresh again and again until the service's port accepts.
//!
//! A SYN that comes before the element is in the kernel's set is dropped, and its connection repeats it
//! only after a second. So every attempt is a new connection, the first given up after a millisecond,
//! each next one after twice that.

use std::{
    io, iter,
    net::{IpAddr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use crate::{endpoint::ServicePort, exit::Error, plan::Wait, send::Route};

pub(crate) const SHORTEST: Duration = Duration::from_millis(1);
/// More than a round trip over any link that devices have, satellites and NB-IoT included.
pub(crate) const LONGEST: Duration = Duration::from_millis(4_096);

/// How long the packet is ahead of the first attempt: the daemon takes a good tenth of a millisecond to
/// open, and a SYN that comes too early costs a whole attempt.
const HEAD_START: Duration = Duration::from_micros(250);

/// The port accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) at: IpAddr,
    pub(crate) after: Duration,
}

/// How long each attempt may take: doubling, up to four seconds.
fn attempts() -> impl Iterator<Item = Duration> {
    iter::successors(Some(SHORTEST), |time| Some(LONGEST.min(*time * 2)))
}

/// Probes every address that was knocked at in turn, until one accepts or the time is over.
pub(crate) fn until_open(knocked: &[&Route], wait: Wait) -> Result<Opened, Error> {
    let start = Instant::now();
    sleep(HEAD_START);
    let mut probes: Vec<_> = knocked.iter().map(|route| Probe::of(route, wait.port)).collect();
    for time in attempts() {
        for probe in &mut probes {
            let left = wait.limit.saturating_sub(start.elapsed());
            if !left.is_zero() && probe.accepts_within(time.min(left)) {
                return Ok(Opened { at: probe.to.ip(), after: start.elapsed() });
            }
        }
        if start.elapsed() >= wait.limit {
            break;
        }
    }
    Err(not_open(&probes, wait))
}

/// One address that is probed, and how the latest attempt ended.
#[derive(Debug)]
struct Probe {
    to: SocketAddr,
    /// Where the knock came from, and so who the door opens for, if that isn't left to the kernel.
    source: Option<IpAddr>,
    last: Last,
}

/// How an attempt that failed ended.
#[derive(Debug)]
pub(crate) enum Last {
    /// Nothing came back, as from a closed door.
    Silence,
    /// A reset came back: the door is open.
    Refused,
    /// There was no way to make the attempt.
    Error(io::Error),
}

impl Last {
    /// What an error of connect(2) means.
    pub(crate) fn of(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            Self::Silence
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused
        } else {
            Self::Error(error)
        }
    }

    /// What it means, and what to do.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Silence => {
                "no answer, so the door is shut: the journal of knockd says whether the knock came and why it was refused"
                    .to_owned()
            }
            Self::Refused => {
                "connection refused, so the door is open and nothing listens behind it: start the service there, or correct the port"
                    .to_owned()
            }
            Self::Error(error) => error.to_string(),
        }
    }
}

impl Probe {
    fn of(route: &Route, port: ServicePort) -> Self {
        let mut to = route.to;
        to.set_port(port.number.get());
        Self { to, source: route.source, last: Last::Silence }
    }

    /// Makes one attempt, which takes all of its time unless the port accepts: an answer that comes at
    /// once, such as a reset, must not make a busy loop.
    fn accepts_within(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        let Err(error) = self.connect(time) else { return true };
        self.last = Last::of(error);
        sleep(time.saturating_sub(start.elapsed()));
        false
    }

    fn connect(&self, time: Duration) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&self.to.into(), time)
    }
}

fn not_open(probes: &[Probe], wait: Wait) -> Error {
    let mut text = format!("{} did not open within {:?}:", wait.port, wait.limit);
    for (index, probe) in probes.iter().enumerate() {
        let separator = if index == 0 { "" } else { ";" };
        text.push_str(&format!("{separator} {}: {}", probe.to.ip(), probe.last.reason()));
    }
    Error::NotOpen(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_begin_at_a_millisecond_and_double_up_to_four_seconds() {
        let millis: Vec<_> = attempts().take(15).map(|time| time.as_millis()).collect();
        assert_eq!(millis, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
    }

    #[test]
    fn the_failure_tells_an_open_door_without_a_service_from_a_shut_one() {
        let wait = Wait { port: "tcp/8883".parse().unwrap(), limit: Duration::from_secs(10) };
        let probe = |to: &str, last| Probe { to: to.parse().unwrap(), source: None, last };
        let error = not_open(
            &[
                probe("192.0.2.7:8883", Last::Silence),
                probe("[2001:db8::7]:8883", Last::Refused),
                probe("192.0.2.8:8883", Last::Error(io::Error::other("no route"))),
            ],
            wait,
        );
        assert_eq!(error.code().number(), 69);
        let text = error.to_string();
        for part in [
            "tcp/8883 did not open within 10s",
            "192.0.2.7: no answer, so the door is shut",
            "2001:db8::7: connection refused, so the door is open",
            "192.0.2.8: no route",
        ] {
            assert!(text.contains(part), "{part:?} isn't in {text:?}");
        }
    }
}
