//! From where each client was let in of late, so that its connections can be found when its grants are over: a
//! connection outlives its grant for as long as it stands.
//!
//! # Security considerations
//! - Only packets that were accepted count, so that nobody without a key can fill this memory. It holds
//!   [`Visits::MAX`] visits at most, in two generations: when the younger one is full, the older one is forgotten.
//! - Of a client it holds its latest [`Visits::PER_CLIENT`] in each, so that one client fills no more than its own
//!   share. Whoever is let in from more addresses than that has connections that are no longer found by his name;
//!   by their address they are.

use std::{
    collections::{HashMap, HashSet},
    mem,
};

use common::UnicastAddress;

use super::{
    directory::{ClientId, Directory, ServiceId},
    grants::{Door, Owner},
};

/// From where clients were let in, and to what.
#[derive(Debug, Default)]
pub struct Visits {
    younger: HashMap<ClientId, Vec<(UnicastAddress, ServiceId)>>,
    older: HashMap<ClientId, Vec<(UnicastAddress, ServiceId)>>,
    /// How many are in the younger generation.
    count: usize,
}

impl Visits {
    /// The most visits that are remembered.
    pub const MAX: usize = 65_536;
    /// The most of one client in each generation.
    pub const PER_CLIENT: usize = 16;

    /// Remembers that this owner was let in.
    pub fn record(&mut self, Owner { address, client, service }: Owner) {
        let visit = (address, service);
        let visits = self.younger.entry(client).or_default();
        if let Some(known) = visits.iter().position(|known| *known == visit) {
            visits.remove(known);
        } else if visits.len() >= Self::PER_CLIENT {
            visits.remove(0);
        } else {
            self.count += 1;
            // Most clients come from one place.
            visits.reserve_exact(1);
        }
        visits.push(visit);
        if self.count >= Self::MAX / 2 {
            self.older = mem::take(&mut self.younger);
            self.count = 0;
        }
    }

    /// The doors that a client came in by, as far as they are remembered.
    #[must_use]
    pub fn doors(&self, client: ClientId, directory: &Directory) -> HashSet<Door> {
        let of_client = [&self.younger, &self.older].into_iter().filter_map(|it| it.get(&client));
        let ports = |service: ServiceId| directory.service(service).ports.iter();
        of_client
            .flatten()
            .flat_map(|(address, service)| {
                ports(*service).map(|port| Door { address: *address, port: *port })
            })
            .collect()
    }

    /// Forgets a client that is gone.
    pub fn forget(&mut self, client: ClientId) {
        self.count -= self.younger.remove(&client).map_or(0, |visits| visits.len());
        self.older.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use common::{Realm, Secret};

    use super::{
        super::policy::{AddressPolicy, Client, ClientClock, Service, Standing},
        *,
    };

    const CLIENTS: u32 = 5_000;

    fn directory() -> Directory {
        let services = [("mqtts", "tcp/8883"), ("coaps", "udp/5684")].map(|(name, port)| Service {
            name: name.parse().unwrap(),
            ports: vec![port.parse().unwrap()],
            to: Vec::new(),
        });
        let clients = (0..CLIENTS)
            .map(|number| {
                let mut secret = [1; 32];
                secret[..4].copy_from_slice(&number.to_be_bytes());
                Client {
                    name: format!("client-{number}").parse().unwrap(),
                    secret: Secret::new(secret).unwrap(),
                    services: services.iter().map(|service| service.name).collect(),
                    from: Vec::new(),
                    address: AddressPolicy::Strict,
                    clock: ClientClock::Utc,
                    expires: None,
                    old_key: None,
                    standing: Standing::Enabled,
                }
            })
            .collect();
        Directory::new(services.to_vec(), clients, &Realm::default())
    }

    fn address(number: u32) -> UnicastAddress {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + number)).try_into().unwrap()
    }

    fn owner(directory: &Directory, client: u32, number: u32) -> Owner {
        let (client, _) = directory.clients().nth(client as usize).unwrap();
        let service = directory.service_named("mqtts".parse().unwrap()).unwrap();
        Owner { address: address(number), client, service }
    }

    #[test]
    fn a_client_is_found_wherever_it_was_let_in_and_nobody_else_is() {
        let (directory, mut visits) = (directory(), Visits::default());
        let [a, b] = [owner(&directory, 0, 1), owner(&directory, 1, 2)];
        for owner in [a, Owner { address: address(3), ..a }, b, a] {
            visits.record(owner);
        }
        let doors = visits.doors(a.client, &directory);
        let port = "tcp/8883".parse().unwrap();
        assert_eq!(doors, [1, 3].map(|it| Door { address: address(it), port }).into());
        visits.forget(a.client);
        assert!(visits.doors(a.client, &directory).is_empty());
        assert_eq!(visits.doors(b.client, &directory).len(), 1);
    }

    #[test]
    fn one_client_fills_its_own_share_and_its_latest_visits_stay() {
        let (directory, mut visits) = (directory(), Visits::default());
        let other = owner(&directory, 1, 0);
        visits.record(other);
        for number in 0..1_000_000 {
            visits.record(owner_of(other, &directory, number));
        }
        let first = directory.clients().next().unwrap().0;
        let doors = visits.doors(first, &directory);
        assert_eq!(doors.len(), Visits::PER_CLIENT);
        assert!(doors.iter().any(|door| door.address == address(999_999)));
        assert_eq!(visits.doors(other.client, &directory).len(), 1);
    }

    /// The first client at an address of its own.
    fn owner_of(like: Owner, directory: &Directory, number: u32) -> Owner {
        let client = directory.clients().next().unwrap().0;
        Owner { address: address(number), client, ..like }
    }

    #[test]
    fn however_many_visits_there_are_the_memory_keeps_its_bound() {
        let (directory, mut visits) = (directory(), Visits::default());
        let clients: Vec<ClientId> = directory.clients().map(|(client, _)| client).collect();
        let like = owner(&directory, 0, 0);
        for number in 0..40 {
            for client in &clients {
                visits.record(Owner { address: address(number), client: *client, ..like });
                let [a, b] = [&visits.younger, &visits.older]
                    .map(|generation| generation.values().map(Vec::len).sum::<usize>());
                if number % 10 == 0 {
                    assert!(a + b <= Visits::MAX, "{a} and {b}");
                }
            }
        }
        for client in &clients {
            visits.forget(*client);
        }
        assert_eq!(visits.count, 0);
    }
}
