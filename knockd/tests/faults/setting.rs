//! Two clients, two addresses, and two services that have a door in common.

use std::{net::IpAddr, time::Duration};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, UnicastAddress, seal,
};
use knockd::gate::{
    bans::BanKind,
    clock::{Now, Uptime},
    policy::Service,
    source::Source,
};

pub(crate) const CLIENTS: [&str; 2] = ["press-17", "press-18"];
pub(crate) const ADDRESSES: [&str; 2] = ["10.77.0.2", "2001:db8::2"];
/// Two services that have a door in common.
pub(crate) const SERVICES: [(&str, &str); 2] =
    [("mqtts", "tcp/8883"), ("broker", "tcp/8883 udp/5684")];
/// In seconds: times differ by more than the second that a door's time may be off.
pub(crate) const TIME_STEP: u32 = 5;
pub(crate) const BAN: Duration = Duration::from_mins(2);

pub(crate) fn address(number: usize) -> UnicastAddress {
    ADDRESSES[number].parse::<IpAddr>().unwrap().try_into().unwrap()
}

pub(crate) fn source(number: usize) -> Source {
    Source::of(address(number).ip())
}

pub(crate) fn secret(client: usize) -> Secret {
    let mut bytes = [7; 32];
    bytes[0] = u8::try_from(client).unwrap();
    Secret::new(bytes).unwrap()
}

pub(crate) fn services() -> Vec<Service> {
    let service = |(name, ports): (&str, &str)| Service {
        name: name.parse().unwrap(),
        ports: ports.split(' ').map(|port| port.parse().unwrap()).collect(),
        to: Vec::new(),
    };
    SERVICES.map(service).to_vec()
}

/// Who holds doors: indices of client, address and service.
pub(crate) type Owner = (usize, usize, usize);
pub(crate) type Ban = (BanKind, Uptime);

#[derive(Clone, Debug)]
pub(crate) struct Knock {
    pub(crate) client: usize,
    pub(crate) address: usize,
    /// `None` for all of the client's.
    pub(crate) service: Option<usize>,
    pub(crate) action: Action,
    pub(crate) open_for_s: u32,
}

/// Whose packet it is, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Of {
    pub(crate) client: String,
    pub(crate) services: Vec<String>,
}

impl Knock {
    pub(crate) fn services(&self) -> Vec<usize> {
        self.service.map_or_else(|| vec![0, 1], |service| vec![service])
    }

    pub(crate) fn is_by(&self, Of { client, services }: &Of, from: IpAddr) -> bool {
        CLIENTS[self.client] == client
            && address(self.address).ip() == from
            && self.services().into_iter().map(|service| SERVICES[service].0).eq(services)
    }

    pub(crate) fn owners(&self) -> Vec<Owner> {
        self.services().into_iter().map(|service| (self.client, self.address, service)).collect()
    }

    pub(crate) fn seal(&self, number: usize, now: Now) -> SealedDatagram {
        let request = Request {
            timestamp: now.utc,
            address: ClientAddress::Literal(address(self.address)),
            open_for: OpenFor::from_secs(self.open_for_s),
            action: self.action,
            reply: ReplyWanted::No,
            service: self.service.map(|service| SERVICES[service].0.parse().unwrap()),
        };
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        let keys = ClientKeys::derive(&secret(self.client), &Realm::default());
        seal(&keys, Day::of(now.utc).unwrap(), Nonce::from_random(nonce), &request)
    }
}
