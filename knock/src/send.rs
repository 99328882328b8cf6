//! Sends the packets: one connected socket for each address of the server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    rc::Rc,
    thread::sleep,
    time::Duration,
};

use common::{ClientAddress, InvalidAddress, UnicastAddress};
use socket2::{Domain, Socket, Type};

use crate::{endpoint::AddressChoice, exit::Error, nat, packet::Packet, plan::Plan};

/// Pause between the packets of `--repeat`.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to one address of the server.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    /// The address that the door is to open for.
    pub(crate) address: ClientAddress,
    /// Where packets must come from, if that isn't left to the kernel.
    pub(crate) source: Option<IpAddr>,
    socket: Socket,
}

/// Why nothing went to one address of the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The system gives no socket.
    #[error("no socket: {0}")]
    Socket(io::Error),
    /// The kernel knows no way there, or could not send.
    #[error("{0}")]
    Network(#[from] io::Error),
    /// The local address towards it is none that a client can have.
    #[error(
        "the local address towards it is {address}, {why}, which can't be a client's: give the right one with --address, or --address observed if the server allows that"
    )]
    LocalAddress {
        /// What the kernel would send from.
        address: IpAddr,
        /// What kind of address that is.
        why: InvalidAddress,
    },
}

impl Route {
    /// Finds the way to `to`, and the address to open for. Nothing is sent.
    pub(crate) fn find(to: SocketAddr, choice: AddressChoice) -> Result<Self, RouteError> {
        let socket =
            Socket::new(Domain::for_address(to), Type::DGRAM, None).map_err(RouteError::Socket)?;
        let mut source = None;
        if let AddressChoice::Literal(own) = choice {
            // The datagram must come from the address that it names. If that isn't this host's (but
            // that of a router which translates one to one), the kernel chooses the source.
            if socket.bind(&SocketAddr::new(own.ip(), 0).into()).is_ok() {
                source = Some(own.ip());
            }
        }
        socket.connect(&to.into())?;
        let address = match choice {
            AddressChoice::Observed => ClientAddress::Observed,
            AddressChoice::Literal(own) => ClientAddress::Literal(own),
            AddressChoice::Auto => {
                let unspecified = match to {
                    SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                let address =
                    socket.local_addr()?.as_socket().map_or(unspecified, |local| local.ip());
                let own = UnicastAddress::try_from(address)
                    .map_err(|why| RouteError::LocalAddress { address, why })?;
                ClientAddress::Literal(own)
            }
        };
        Ok(Self { to, address, source, socket })
    }

    /// The local address that packets leave from, where the kernel chose one.
    pub(crate) fn local(&self) -> Option<IpAddr> {
        self.socket.local_addr().ok()?.as_socket().map(|local| local.ip())
    }

    /// The socket, connected: what comes in is from there.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&self, packet: &Packet) -> io::Result<()> {
        let send = || self.socket.send(&packet.datagram);
        match send() {
            // This reports that an earlier datagram met no listener, and then this one wasn't sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send(),
            result => result,
        }
        .map(|_| ())
    }
}

/// What went to one address of the server.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) route: Rc<Route>,
    /// The packets that were sent, in this order.
    pub(crate) packets: Vec<Packet>,
    /// The first failure, which does not stop the packets after it.
    pub(crate) error: Option<io::Error>,
}

/// An address of the server that there is no way to.
#[derive(Debug)]
pub(crate) struct Unreachable {
    pub(crate) to: SocketAddr,
    pub(crate) error: RouteError,
}

/// Finds the ways to all addresses, and the reasons for those without one.
pub(crate) fn routes(
    addresses: &[SocketAddr],
    choice: AddressChoice,
) -> (Vec<Rc<Route>>, Vec<Unreachable>) {
    let mut routes = Vec::new();
    let mut unreachable = Vec::new();
    for to in addresses {
        match Route::find(*to, choice) {
            Ok(route) => routes.push(Rc::new(route)),
            Err(error) => unreachable.push(Unreachable { to: *to, error }),
        }
    }
    (routes, unreachable)
}

/// Sends to every address as many packets as the plan says, each of them fresh.
pub(crate) fn send(plan: &mut Plan, routes: &[Rc<Route>]) -> Result<Vec<Outcome>, Error> {
    let mut outcomes: Vec<_> = routes
        .iter()
        .map(|route| Outcome { route: Rc::clone(route), packets: Vec::new(), error: None })
        .collect();
    let rounds = plan.repeat.number();
    let mut stamps = plan.clock.stamps(usize::from(rounds) * routes.len())?;
    for round in 0..rounds {
        if round > 0 {
            sleep(PAUSE);
        }
        for outcome in &mut outcomes {
            let packet =
                Packet::fresh(&plan.keys, plan.ask, outcome.route.address, stamps.next()?)?;
            match outcome.route.send(&packet) {
                Ok(()) => outcome.packets.push(packet),
                Err(error) => {
                    outcome.error.get_or_insert(error);
                }
            }
        }
    }
    Ok(outcomes)
}

/// Sends one more packet on a way; `None` if it could not be sent.
pub(crate) fn send_once(plan: &mut Plan, route: &Route) -> Result<Option<Packet>, Error> {
    let mut stamps = plan.clock.stamps(1)?;
    let packet = Packet::fresh(&plan.keys, plan.ask, route.address, stamps.next()?)?;
    Ok(route.send(&packet).is_ok().then_some(packet))
}

/// A packet that would go out.
#[derive(Debug)]
pub(crate) struct Rehearsed {
    /// The server's address, or its name where nobody says what address that has.
    pub(crate) to: String,
    pub(crate) packet: Packet,
}

/// Makes the packets that [`send`] would make, and sends none. It needs no network: what only that can tell is left
/// open, and told as a warning.
pub(crate) fn rehearse(
    plan: &Plan,
    addresses: Result<Vec<SocketAddr>, Error>,
) -> Result<(Vec<Rehearsed>, Vec<String>), Error> {
    let mut warnings = Vec::new();
    let ways = match addresses {
        Ok(addresses) => addresses.iter().map(|to| rehearsed(plan, *to, &mut warnings)).collect(),
        Err(Error::NoHost(why)) => {
            warnings.push(why);
            vec![(plan.server.to_string(), unrouted(plan.address, &mut warnings))]
        }
        Err(error) => return Err(error),
    };
    let rounds = plan.repeat.number();
    let mut stamps = plan.clock.rehearsed(usize::from(rounds) * ways.len())?;
    let mut packets = Vec::new();
    for (to, address) in ways {
        for _ in 0..rounds {
            let packet = Packet::fresh(&plan.keys, plan.ask, address, stamps.next()?)?;
            packets.push(Rehearsed { to: to.clone(), packet });
        }
    }
    Ok((packets, warnings))
}

fn rehearsed(plan: &Plan, to: SocketAddr, warnings: &mut Vec<String>) -> (String, ClientAddress) {
    let address = match Route::find(to, plan.address) {
        Ok(route) => {
            warnings.extend(nat::warning(&route));
            route.address
        }
        Err(error) => {
            warnings.push(format!("there is no way to {to}: {error}"));
            unrouted(plan.address, warnings)
        }
    };
    (to.to_string(), address)
}

/// The address that a packet is for, where there is no way to the server that would show this device's own.
fn unrouted(choice: AddressChoice, warnings: &mut Vec<String>) -> ClientAddress {
    match choice {
        AddressChoice::Literal(own) => ClientAddress::Literal(own),
        AddressChoice::Observed => ClientAddress::Observed,
        AddressChoice::Auto => {
            warnings.push(
                "without a way to the server this device's own address towards it isn't known: shown as observed".to_owned(),
            );
            ClientAddress::Observed
        }
    }
}

/// Why nothing was sent at all.
pub(crate) fn nothing_sent(unreachable: &[Unreachable], outcomes: &[Outcome]) -> Error {
    let is_socket = |failed: &Unreachable| matches!(failed.error, RouteError::Socket(_));
    let of_routes = unreachable.iter().map(|failed| format!("{}: {}", failed.to, failed.error));
    let of_sending = outcomes.iter().filter_map(|outcome| {
        outcome.error.as_ref().map(|error| format!("{}: {error}", outcome.route.to))
    });
    let reasons = of_routes.chain(of_sending).collect::<Vec<_>>().join("; ");
    if outcomes.is_empty() && unreachable.iter().all(is_socket) {
        Error::System(format!("nothing could be sent: {reasons}"))
    } else {
        Error::NotSent(reasons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// connect(2) refuses it on a socket that didn't ask for broadcasts.
    const BROADCAST: &str = "255.255.255.255:62201";

    fn to(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|to| to.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_without_a_way_does_not_stand_in_the_way_of_the_others() {
        let addresses = to(&[BROADCAST, "127.0.0.1:62201"]);
        let (routes, unreachable) = routes(&addresses, AddressChoice::Observed);
        assert_eq!(routes.iter().map(|route| route.to).collect::<Vec<_>>(), addresses[1..]);
        assert_eq!(unreachable.iter().map(|failed| failed.to).collect::<Vec<_>>(), addresses[..1]);
    }

    #[test]
    fn the_reason_is_given_for_each_address_if_nothing_was_sent() {
        let (routes, unreachable) = routes(&to(&[BROADCAST, "127.0.0.1:9"]), AddressChoice::Auto);
        assert!(routes.is_empty());
        let error = nothing_sent(&unreachable, &[]);
        assert_eq!(error.code().number(), 69);
        let text = error.to_string();
        for part in ["255.255.255.255:62201: Permission denied", "127.0.0.1:9: the local address"] {
            assert!(text.contains(part), "{part:?} isn't in {text:?}");
        }
    }

    #[test]
    fn a_system_without_sockets_is_told_apart_from_a_network_without_a_way() {
        let failed = |error| Unreachable { to: to(&["192.0.2.7:1"])[0], error };
        let none = || RouteError::Socket(io::Error::other("too many open files"));
        let route = RouteError::Network(io::Error::other("no route"));
        assert_eq!(nothing_sent(&[failed(none())], &[]).code().number(), 71);
        assert_eq!(nothing_sent(&[failed(none()), failed(route)], &[]).code().number(), 69);
    }

    #[test]
    fn a_datagram_that_met_no_listener_does_not_keep_the_next_from_being_sent() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let route = Route::find(address, AddressChoice::Observed).unwrap();
        let keys = common::ClientKeys::derive(
            &common::Secret::new(std::array::from_fn(|at| u8::try_from(at).unwrap())).unwrap(),
            &common::Realm::default(),
        );
        let ask = crate::plan::Ask {
            action: common::Action::Open,
            open_for: common::OpenFor::Default,
            service: None,
            reply: common::ReplyWanted::No,
        };
        let stamp = crate::packet::Stamp::now().unwrap();
        let packet = Packet::fresh(&keys, ask, route.address, stamp).unwrap();
        drop(listener);
        route.send(&packet).unwrap();
        let listener = std::net::UdpSocket::bind(address).unwrap();
        route.send(&packet).unwrap();
        assert_eq!(listener.recv(&mut [0; 200]).unwrap(), packet.datagram.len());
    }
}
