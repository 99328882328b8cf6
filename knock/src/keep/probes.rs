//! Looks whether the door is open, without waiting: connections that are begun and looked after, to all
//! addresses of the server at once.
//!
//! [`Probes::until_open`] makes ever new connections as [`wait`] does, since a SYN that comes before the door is
//! open is lost. [`Probes::once`] makes one each, for a door that should be open already.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::{
    endpoint::ServicePort,
    send::Route,
    wait::{self, Last},
};

/// A look at the door that isn't over yet. Times are those of the caller's clock.
#[derive(Debug)]
pub(super) struct Probes {
    targets: Vec<Target>,
    /// How long the connections of this round may take.
    round: Duration,
    round_ends: Duration,
    begun: Duration,
    ends: Duration,
}

/// One address that is probed.
#[derive(Debug)]
struct Target {
    to: SocketAddr,
    source: Option<IpAddr>,
    pending: Option<Socket>,
    found: Found,
}

/// How the latest connection went.
#[derive(Debug)]
enum Found {
    Accepted,
    Failed(Last),
}

/// What a look at the door has shown, as soon as it has shown anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) by: IpAddr,
    pub(super) after: Duration,
}

impl Probes {
    /// Begins to knock on the door itself until it opens.
    pub(super) fn until_open<'r>(
        routes: impl Iterator<Item = &'r Route>,
        port: ServicePort,
        now: Duration,
        limit: Duration,
    ) -> Self {
        Self::begin(routes, port, now, limit, wait::SHORTEST)
    }

    /// Begins one connection to each address; the kernel itself repeats a SYN that gets lost.
    pub(super) fn once<'r>(
        routes: impl Iterator<Item = &'r Route>,
        port: ServicePort,
        now: Duration,
        limit: Duration,
    ) -> Self {
        Self::begin(routes, port, now, limit, limit)
    }

    fn begin<'r>(
        routes: impl Iterator<Item = &'r Route>,
        port: ServicePort,
        now: Duration,
        limit: Duration,
        round: Duration,
    ) -> Self {
        let target = |route: &Route| {
            let mut to = route.to;
            to.set_port(port.number.get());
            let found = Found::Failed(Last::Silence);
            Target { to, source: route.source, pending: None, found }
        };
        let targets = routes.map(target).collect();
        let mut probes =
            Self { targets, round, round_ends: now + round, begun: now, ends: now + limit };
        probes.connect();
        probes
    }

    fn connect(&mut self) {
        for target in &mut self.targets {
            (target.pending, target.found) = match target.connect() {
                Ok(socket) => (Some(socket), Found::Failed(Last::Silence)),
                Err(error) => (None, Found::Failed(Last::of(error))),
            };
        }
    }

    /// What becomes writable when there is something to see.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.targets
            .iter()
            .filter_map(|target| target.pending.as_ref())
            .map(|socket| socket.as_fd())
    }

    /// When to look again at the latest.
    pub(super) fn due(&self) -> Duration {
        self.round_ends.min(self.ends)
    }

    /// Looks at all connections, and begins new ones when a round is over.
    pub(super) fn look(&mut self, now: Duration) {
        for target in &mut self.targets {
            target.look();
        }
        let is_open = self.accepted(now).is_some();
        if !is_open && now >= self.round_ends && now < self.ends {
            self.round = (self.round * 2).min(wait::LONGEST);
            self.round_ends = now + self.round;
            self.connect();
        }
    }

    /// Whether the time is over, or nothing is left to wait for in this round, which is the last one.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        let is_last = self.round_ends >= self.ends;
        let is_decided = self.targets.iter().all(|target| target.pending.is_none());
        now >= self.ends || (is_last && is_decided && self.round_ends == self.ends)
    }

    /// The first address whose port accepted.
    pub(super) fn accepted(&self, now: Duration) -> Option<Accepted> {
        let by = self.targets.iter().find(|target| matches!(target.found, Found::Accepted))?;
        Some(Accepted { by: by.to.ip(), after: now.saturating_sub(self.begun) })
    }

    /// The addresses that the door is open at: what resets a connection has let it through.
    pub(super) fn open(&self) -> impl Iterator<Item = IpAddr> {
        let is_open = |target: &&Target| {
            matches!(target.found, Found::Accepted | Found::Failed(Last::Refused))
        };
        self.targets.iter().filter(is_open).map(|target| target.to.ip())
    }

    /// Why it isn't open, for each address.
    pub(super) fn reasons(&self) -> String {
        let reason = |target: &Target| match &target.found {
            Found::Accepted => None,
            Found::Failed(last) => Some(format!("{}: {}", target.to.ip(), last.reason())),
        };
        self.targets.iter().filter_map(reason).collect::<Vec<_>>().join("; ")
    }
}

impl Target {
    fn connect(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(socket),
        }
    }

    fn look(&mut self) {
        let Some(socket) = &self.pending else { return };
        let found = match socket.take_error() {
            Ok(Some(error)) | Err(error) => Found::Failed(Last::of(error)),
            Ok(None) if socket.peer_addr().is_ok() => Found::Accepted,
            Ok(None) => return,
        };
        self.found = found;
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Instant};

    use super::*;
    use crate::endpoint::AddressChoice;

    const LIMIT: Duration = Duration::from_secs(20);

    fn route() -> Route {
        Route::find("127.0.0.1:62201".parse().unwrap(), AddressChoice::Observed).unwrap()
    }

    fn port(listener: &TcpListener) -> ServicePort {
        format!("tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap()
    }

    /// Looks until it is over or something accepted.
    fn outcome(mut probes: Probes, start: Instant) -> (Option<Accepted>, Probes) {
        loop {
            let now = start.elapsed();
            probes.look(now);
            let accepted = probes.accepted(now);
            if accepted.is_some() || probes.is_over(now) {
                return (accepted, probes);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_port_that_accepts_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (route, start) = (route(), Instant::now());
        let routes = [&route];
        let probes = Probes::once(routes.into_iter(), port(&listener), start.elapsed(), LIMIT);
        let (accepted, probes) = outcome(probes, start);
        assert_eq!(accepted.map(|accepted| accepted.by.to_string()), Some("127.0.0.1".into()));
        assert_eq!(probes.open().count(), 1);
    }

    #[test]
    fn a_port_that_refuses_lies_behind_an_open_door_and_one_look_is_over_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port(&listener);
        drop(listener);
        let (route, start) = (route(), Instant::now());
        let probes = Probes::once([&route].into_iter(), port, start.elapsed(), LIMIT);
        let (accepted, probes) = outcome(probes, start);
        assert_eq!((accepted, probes.open().count()), (None, 1));
        assert!(probes.reasons().contains("nothing listens behind it"), "{}", probes.reasons());
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_port_that_begins_to_listen_is_found_by_a_later_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, address) = (port(&listener), listener.local_addr().unwrap());
        drop(listener);
        let (route, start) = (route(), Instant::now());
        let mut probes = Probes::until_open([&route].into_iter(), port, start.elapsed(), LIMIT);
        probes.look(start.elapsed());
        let _listener = TcpListener::bind(address).unwrap();
        let (accepted, _) = outcome(probes, start);
        assert!(accepted.is_some());
    }
}
