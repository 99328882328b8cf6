//! Looks whether the door is open, without waiting: connections that are begun and looked after, to all
//! addresses of the server at once (RFC 8305 calls that happy eyeballs).
//!
//! A SYN that comes before the element is in the kernel's set is dropped, and its connection repeats it only after a
//! second. So [`Probes::knocked`] makes ever new connections, the first given up after a millisecond, each next one
//! after twice that. [`Probes::once`] makes one each, for a door that should be open already.
//!
//! That something accepts is no proof that the door opened: a proxy on the way may accept for everybody, or the port be
//! open anyway. So a connection is begun before the knock too ([`Probes::before`]), and what answers that one proves
//! nothing. It costs no time: its SYN goes first, and so does the answer.
//!
//! No connection is seen by the server's program: the handshake's last packet is held back, and a reset sent in its
//! place, so that the kernel there forgets the connection before anybody has accepted it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    rc::Rc,
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::{endpoint::ServicePort, reply::Replied, send::Route};

const SHORTEST: Duration = Duration::from_millis(1);
/// More than a round trip over any link that devices have, satellites and NB-IoT included.
const LONGEST: Duration = Duration::from_millis(4_096);

/// Linux repeats a SYN after a second (RFC 6298, section 2). An answer that comes later than this may be one to the
/// repetition, which came behind the knock.
const UNREPEATED: Duration = Duration::from_millis(900);

/// A look at the door that isn't over yet. Times are those of the caller's clock.
#[derive(Debug)]
pub(crate) struct Probes {
    port: ServicePort,
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
    /// Where the knock comes from, and so who the door opens for, if that isn't left to the kernel.
    source: Option<IpAddr>,
    before: Before,
    pending: Option<Socket>,
    found: Found,
}

/// How the connection went that was begun before the knock.
#[derive(Debug)]
enum Before {
    /// Nothing has come back, or there is none.
    Silent,
    Pending(Socket, Duration),
    /// It was answered so, and any other would have been.
    Accepted,
    Refused,
}

/// How the latest connection went.
#[derive(Debug)]
enum Found {
    Accepted,
    /// A reset came back.
    Refused,
    /// Nothing came back, as from a closed door.
    Silence,
    /// There was no way to make the attempt.
    Error(io::Error),
}

/// Whether an open port shows that the knock has opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It was shut before.
    Yes,
    /// It was open before.
    No,
}

/// What a look at the door has shown, as soon as it has shown anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) by: IpAddr,
    pub(crate) after: Duration,
    pub(crate) proof: Proof,
}

impl Accepted {
    /// The same, where a reply says that the door was opened.
    pub(crate) fn proven_by(self, replies: &[Replied]) -> Self {
        if replies.is_empty() { self } else { Self { proof: Proof::Yes, ..self } }
    }
}

/// What an open port that was open before can mean.
pub(crate) const NO_PROOF: &str = "as it did before the knock, which so is not shown to have arrived: an earlier grant \
still lives, nothing guards the port, or something on the way accepts for the server (with --reply, its reply is the proof)";

impl Found {
    /// What an error of connect(2) means.
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Silence,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Error(error),
        }
    }
}

impl Probes {
    /// Begins a connection to each address, before the knock: [`Self::knocked`] goes on.
    pub(crate) fn before(routes: &[Rc<Route>], port: ServicePort, now: Duration) -> Self {
        let mut probes = Self::of(routes, port, now);
        for target in &mut probes.targets {
            if let Ok(socket) = target.connect() {
                target.before = Before::Pending(socket, now);
            }
        }
        probes
    }

    /// Begins one connection to each address; the kernel itself repeats a SYN that gets lost.
    pub(crate) fn once(
        routes: &[Rc<Route>],
        port: ServicePort,
        now: Duration,
        limit: Duration,
    ) -> Self {
        let mut probes = Self::of(routes, port, now);
        probes.begin(now, limit, limit);
        probes
    }

    /// Begins to knock on the door itself until it opens: the packets are out.
    pub(crate) fn knocked(&mut self, now: Duration, limit: Duration) {
        self.begin(now, limit, SHORTEST);
    }

    fn of(routes: &[Rc<Route>], port: ServicePort, now: Duration) -> Self {
        let target = |route: &Rc<Route>| {
            let mut to = route.to;
            to.set_port(port.number.get());
            let (before, found) = (Before::Silent, Found::Silence);
            Target { to, source: route.source, before, pending: None, found }
        };
        let targets = routes.iter().map(target).collect();
        Self { port, targets, round: Duration::ZERO, round_ends: now, begun: now, ends: now }
    }

    fn begin(&mut self, now: Duration, limit: Duration, round: Duration) {
        (self.round, self.round_ends, self.begun, self.ends) =
            (round, now + round, now, now + limit);
        self.connect();
    }

    fn connect(&mut self) {
        for target in &mut self.targets {
            if target.pending.is_some() {
                target.found = Found::Silence;
            }
            target.pending = match target.connect() {
                Ok(socket) => Some(socket),
                Err(error) => {
                    target.found = Found::of(error);
                    None
                }
            };
        }
    }

    /// What becomes writable when there is something to see.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.targets.iter().flat_map(|target| {
            let before = match &target.before {
                Before::Pending(socket, _) => Some(socket),
                Before::Silent | Before::Accepted | Before::Refused => None,
            };
            before.into_iter().chain(&target.pending)
        });
        sockets.map(|socket| socket.as_fd())
    }

    /// When to look again at the latest.
    pub(crate) fn due(&self) -> Duration {
        self.round_ends.min(self.ends)
    }

    /// Looks at all connections, and begins new ones when a round is over.
    pub(crate) fn look(&mut self, now: Duration) {
        for target in &mut self.targets {
            target.look(now);
        }
        let is_open = self.accepted(now).is_some();
        if !is_open && now >= self.round_ends && now < self.ends {
            self.round = (self.round * 2).min(LONGEST);
            self.round_ends = now + self.round;
            self.connect();
        }
    }

    /// Whether the time is over, or nothing is left to wait for in this round, which is the last one.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        let is_decided = self.targets.iter().all(|target| target.pending.is_none());
        now >= self.ends || (is_decided && self.round_ends == self.ends)
    }

    /// An address whose port accepted: one that proves something, if there is such a one.
    pub(crate) fn accepted(&self, now: Duration) -> Option<Accepted> {
        let accepting = || self.targets.iter().filter(|it| matches!(it.found, Found::Accepted));
        let target =
            accepting().find(|target| target.proof() == Proof::Yes).or(accepting().next())?;
        let after = now.saturating_sub(self.begun);
        Some(Accepted { by: target.to.ip(), after, proof: target.proof() })
    }

    /// The addresses that the door is open at: what resets a connection has let it through.
    pub(crate) fn open(&self) -> impl Iterator<Item = IpAddr> {
        let is_open = |it: &&Target| matches!(it.found, Found::Accepted | Found::Refused);
        self.targets.iter().filter(is_open).map(|target| target.to.ip())
    }

    /// What there is to say where nothing accepts, and something refuses.
    pub(crate) fn refusal(&self) -> Option<String> {
        let is_refused = |it: &Target| matches!(it.found, Found::Refused);
        let is_any = self.targets.iter().any(is_refused);
        let is_none = self.targets.iter().all(|it| !matches!(it.found, Found::Accepted));
        (is_any && is_none).then(|| format!("{}: {}", self.port, self.reasons()))
    }

    /// Why it isn't open, for each address.
    pub(crate) fn reasons(&self) -> String {
        let mut reasons = Vec::new();
        for target in &self.targets {
            if let Some(reason) = target.reason() {
                reasons.push(format!("{}: {reason}", target.to.ip()));
            }
        }
        reasons.join("; ")
    }
}

impl Target {
    fn connect(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_nonblocking(true)?;
        // The last packet of the handshake waits for data, and closing sends a reset instead: tcp(7), TCP_QUICKACK;
        // socket(7), SO_LINGER. Without these it works as well, and the server's program sees a connection that ends.
        let _ = socket.set_tcp_quickack(false);
        let _ = socket.set_linger(Some(Duration::ZERO));
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(socket),
        }
    }

    fn look(&mut self, now: Duration) {
        if let Before::Pending(socket, since) = &self.before
            && let Some(found) = look(socket)
        {
            let is_in_time = now.saturating_sub(*since) < UNREPEATED;
            self.before = match found {
                Found::Accepted if is_in_time => Before::Accepted,
                Found::Refused if is_in_time => Before::Refused,
                _ => Before::Silent,
            };
        }
        if let Some(found) = self.pending.as_ref().and_then(look) {
            self.found = found;
            self.pending = None;
        }
    }

    const fn proof(&self) -> Proof {
        match (&self.before, &self.found) {
            (Before::Accepted, Found::Accepted) | (Before::Refused, Found::Refused) => Proof::No,
            _ => Proof::Yes,
        }
    }

    /// What it means that it isn't open, and what to do.
    fn reason(&self) -> Option<String> {
        Some(match (&self.found, self.proof()) {
            (Found::Accepted, _) => return None,
            (Found::Silence, _) => {
                "no answer, so the door is shut: the journal of knockd says whether the knock came and why it was refused".to_owned()
            }
            (Found::Refused, Proof::Yes) => {
                "connection refused, so the door is open and nothing listens behind it: start the service there, or correct the port".to_owned()
            }
            (Found::Refused, Proof::No) => {
                "connection refused, as before the knock: nothing guards that port and nothing listens there, or something on the way refuses".to_owned()
            }
            (Found::Error(error), _) => error.to_string(),
        })
    }
}

/// How a connection went, if it is over.
fn look(socket: &Socket) -> Option<Found> {
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => Some(Found::of(error)),
        Ok(None) => socket.peer_addr().is_ok().then_some(Found::Accepted),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        time::Instant,
    };

    use super::*;
    use crate::endpoint::AddressChoice;

    const LIMIT: Duration = Duration::from_secs(20);

    fn routes() -> Vec<Rc<Route>> {
        let to = "127.0.0.1:62201".parse().unwrap();
        vec![Rc::new(Route::find(to, AddressChoice::Observed).unwrap())]
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
    fn a_port_that_accepts_is_open_and_its_program_sees_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        let probes = Probes::once(&routes(), port(&listener), start.elapsed(), LIMIT);
        let (accepted, probes) = outcome(probes, start);
        assert_eq!(accepted.map(|accepted| accepted.by.to_string()), Some("127.0.0.1".into()));
        assert_eq!(probes.open().count(), 1);
        drop(probes);
        let seen = listener.accept().unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_port_that_refuses_lies_behind_an_open_door_and_one_look_is_over_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port(&listener);
        drop(listener);
        let start = Instant::now();
        let probes = Probes::once(&routes(), port, start.elapsed(), LIMIT);
        let (accepted, probes) = outcome(probes, start);
        assert_eq!((accepted, probes.open().count()), (None, 1));
        assert!(probes.reasons().contains("nothing listens behind it"), "{}", probes.reasons());
        assert!(probes.refusal().is_some());
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_port_that_begins_to_listen_is_found_by_a_later_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, address) = (port(&listener), listener.local_addr().unwrap());
        drop(listener);
        let start = Instant::now();
        let mut probes = Probes::of(&routes(), port, start.elapsed());
        probes.knocked(start.elapsed(), LIMIT);
        probes.look(start.elapsed());
        let _listener = TcpListener::bind(address).unwrap();
        let (accepted, _) = outcome(probes, start);
        assert_eq!(accepted.map(|accepted| accepted.proof), Some(Proof::Yes));
    }

    #[test]
    fn what_accepts_before_the_knock_as_well_proves_nothing_and_what_refuses_neither() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, start) = (port(&listener), Instant::now());
        let mut probes = Probes::before(&routes(), port, start.elapsed());
        probes.knocked(start.elapsed(), LIMIT);
        let (accepted, _) = outcome(probes, start);
        assert_eq!(accepted.map(|accepted| accepted.proof), Some(Proof::No));

        drop(listener);
        let start = Instant::now();
        let mut probes = Probes::before(&routes(), port, start.elapsed());
        probes.knocked(start.elapsed(), Duration::from_millis(20));
        let (_, probes) = outcome(probes, start);
        assert!(probes.reasons().contains("as before the knock"), "{}", probes.reasons());
    }

    /// Loopback answers at once, so that rounds of a millisecond are enough: none is left open.
    #[test]
    fn rounds_begin_at_a_millisecond_and_double_up_to_four_seconds() {
        // Bound and not listening to TCP: nothing has this port.
        let held = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = format!("tcp/{held}").parse().unwrap();
        let mut probes = Probes::of(&routes(), port, Duration::ZERO);
        probes.knocked(Duration::ZERO, Duration::from_secs(60));
        let mut rounds = Vec::new();
        while rounds.len() < 15 {
            rounds.push(probes.round.as_millis());
            probes.look(probes.due());
        }
        assert_eq!(rounds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
    }
}
