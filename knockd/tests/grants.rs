//! Who holds which door: extending, closing, neighbours, and the end of time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
};

use common::{Realm, UnicastAddress};
use knockd::gate::{
    clock::Uptime,
    directory::{ClientId, Directory, ServiceId},
    grants::{Before, Change, Door, DoorBefore, Grants, Owner, TooMany},
    policy::{AddressPolicy, Client, ClientClock, Port, Service, Standing},
    source::Source,
};
use proptest::prelude::*;

/// Two services that share a port, and one apart.
fn directory() -> Directory {
    let services = [("mqtt", "tcp/1883 tcp/8883"), ("mqtts", "tcp/8883"), ("coaps", "udp/5684")]
        .map(|(name, ports)| Service {
            name: name.parse().unwrap(),
            ports: ports.split(' ').map(|port| port.parse().unwrap()).collect(),
            to: Vec::new(),
        })
        .to_vec();
    let clients = (0..3_u8)
        .map(|number| {
            let mut secret = [number; 32];
            secret[0] = 255;
            Client {
                name: format!("client-{number}").parse().unwrap(),
                secret: common::Secret::new(secret).unwrap(),
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
    Directory::new(services, clients, &Realm::default())
}

fn client(directory: &Directory, number: usize) -> ClientId {
    directory.clients_by_name()[format!("client-{number}").as_str()]
}

fn service(directory: &Directory, number: usize) -> ServiceId {
    directory.service_named(["mqtt", "mqtts", "coaps"][number].parse().unwrap()).unwrap()
}

fn address(number: usize) -> UnicastAddress {
    UnicastAddress::try_from(["192.0.2.1", "2001:db8::1"][number].parse::<IpAddr>().unwrap())
        .unwrap()
}

fn seconds(seconds: u64) -> Uptime {
    Uptime::from_millis(seconds * 1_000)
}

fn door(address: UnicastAddress, port: &str) -> Door {
    Door { address, port: port.parse::<Port>().unwrap() }
}

fn open(grants: &mut Grants, owner: Owner, until: u64, directory: &Directory) -> Vec<Change> {
    let mut changes = Vec::new();
    let _ = grants.open(owner, seconds(until), directory, &mut changes).unwrap();
    changes
}

fn close(grants: &mut Grants, owner: Owner, directory: &Directory) -> Vec<Change> {
    let mut changes = Vec::new();
    let _ = grants.close(owner, directory, &mut changes);
    changes
}

#[test]
fn a_second_knock_extends_the_grant_and_never_shortens_it() {
    let directory = directory();
    let owner = Owner {
        address: address(0),
        client: client(&directory, 0),
        service: service(&directory, 1),
    };
    let mut grants = Grants::default();
    for (until, expected) in [(30, 30), (60, 60), (10, 60)] {
        let changes = open(&mut grants, owner, until, &directory);
        let expected = Some(seconds(expected));
        let before = if until == 30 { DoorBefore::Shut } else { DoorBefore::MaybeOpen };
        assert_eq!(
            changes,
            [Change { door: door(address(0), "tcp/8883"), until: expected, before }]
        );
        assert_eq!(grants.held_until(&owner), expected);
    }
}

#[test]
fn a_close_leaves_the_door_open_for_a_neighbour_behind_the_same_address_as_long_as_he_holds_it() {
    let directory = directory();
    let [one, other] = [0, 1].map(|number| Owner {
        address: address(0),
        client: client(&directory, number),
        service: service(&directory, 1),
    });
    let shared = door(address(0), "tcp/8883");
    let mut grants = Grants::default();
    open(&mut grants, one, 60, &directory);
    open(&mut grants, other, 30, &directory);
    assert_eq!(
        close(&mut grants, one, &directory),
        [Change { door: shared, until: Some(seconds(30)), before: DoorBefore::MaybeOpen }]
    );
    assert_eq!(
        close(&mut grants, other, &directory),
        [Change { door: shared, until: None, before: DoorBefore::MaybeOpen }]
    );
    assert_eq!((grants.owners().len(), grants.doors().len()), (0, 0));
}

#[test]
fn a_close_by_who_holds_nothing_changes_nothing() {
    let directory = directory();
    let [one, other] = [0, 1].map(|number| Owner {
        address: address(0),
        client: client(&directory, number),
        service: service(&directory, 1),
    });
    let mut grants = Grants::default();
    open(&mut grants, one, 60, &directory);
    assert_eq!(close(&mut grants, other, &directory), []);
    assert_eq!(grants.held_until(&one), Some(seconds(60)));
}

#[test]
fn a_port_of_two_services_stays_open_until_both_are_closed() {
    let directory = directory();
    let [both, tls] = [0, 1].map(|number| Owner {
        address: address(0),
        client: client(&directory, 0),
        service: service(&directory, number),
    });
    let mut grants = Grants::default();
    open(&mut grants, both, 60, &directory);
    open(&mut grants, tls, 30, &directory);
    let changes = close(&mut grants, both, &directory);
    assert_eq!(
        changes,
        [
            Change {
                door: door(address(0), "tcp/1883"),
                until: None,
                before: DoorBefore::MaybeOpen
            },
            Change {
                door: door(address(0), "tcp/8883"),
                until: Some(seconds(30)),
                before: DoorBefore::MaybeOpen
            },
        ]
    );
}

#[test]
fn grants_are_let_go_a_second_after_their_time_and_not_before() {
    let directory = directory();
    let owner = Owner {
        address: address(0),
        client: client(&directory, 0),
        service: service(&directory, 1),
    };
    let mut grants = Grants::default();
    open(&mut grants, owner, 30, &directory);
    assert_eq!(grants.expire(Uptime::from_millis(30_999), &directory), []);
    assert_eq!(grants.expire(seconds(31), &directory), [owner]);
    assert_eq!((grants.owners().len(), grants.doors().len()), (0, 0));
}

#[test]
fn a_door_that_the_kernel_may_not_have_shut_yet_is_not_taken_for_shut() {
    let directory = directory();
    let owner = Owner {
        address: address(0),
        client: client(&directory, 0),
        service: service(&directory, 1),
    };
    let mut grants = Grants::default();
    open(&mut grants, owner, 30, &directory);
    for (now, expected) in [(30_999, DoorBefore::MaybeOpen), (91_000, DoorBefore::Shut)] {
        grants.expire(Uptime::from_millis(now), &directory);
        let changes = open(&mut grants, owner, 90, &directory);
        assert_eq!(changes[0].before, expected, "{now}");
    }
}

fn owner(directory: &Directory, who: usize, what: usize, last: u8) -> Owner {
    let address: IpAddr = [192, 0, 2, last].into();
    Owner {
        address: address.try_into().unwrap(),
        client: client(directory, who),
        service: service(directory, what),
    }
}

/// Has the client's oldest give way to a knock for one service, and opens; returns what gave way.
fn knock(grants: &mut Grants, owner: Owner, per_client: u32, directory: &Directory) -> Vec<Before> {
    let per_client = NonZeroU32::new(per_client).unwrap();
    let (services, mut changes) = ([owner.service], Vec::new());
    let Owner { address, client, .. } = owner;
    let given_way =
        grants.make_room(client, address, &services, per_client, directory, &mut changes);
    let _ = grants.open(owner, seconds(60), directory, &mut changes);
    given_way
}

#[test]
fn where_all_is_full_a_client_makes_room_by_its_own_and_who_holds_nothing_is_refused() {
    let directory = directory();
    let mut grants = Grants::with_room(3);
    for last in 1..=3 {
        assert_eq!(knock(&mut grants, owner(&directory, 0, 1, last), 64, &directory), []);
    }
    let stranger = owner(&directory, 1, 1, 9);
    let refused = grants.open(stranger, seconds(60), &directory, &mut Vec::new());
    assert_eq!(refused, Err(TooMany));
    assert_eq!(knock(&mut grants, stranger, 64, &directory), []);
    assert_eq!(grants.held_until(&stranger), None);
    assert_eq!(grants.fullest(), Some((client(&directory, 0), 3)));
    let given_way = knock(&mut grants, owner(&directory, 0, 1, 4), 64, &directory);
    assert_eq!(given_way.len(), 1);
    assert_eq!(given_way[0].owner, owner(&directory, 0, 1, 1));
    assert_eq!(grants.owners().len(), 3);
    // Who is in is never refused what it has.
    assert_eq!(knock(&mut grants, owner(&directory, 0, 1, 2), 64, &directory), []);
}

#[test]
fn there_are_never_more_doors_than_the_kernel_has_room_for() {
    let directory = directory();
    let mut grants = Grants::with_room(3);
    // A service of two ports.
    assert_eq!(knock(&mut grants, owner(&directory, 0, 0, 1), 64, &directory), []);
    let refused = grants.open(owner(&directory, 1, 0, 2), seconds(60), &directory, &mut Vec::new());
    assert_eq!(refused, Err(TooMany));
    assert_eq!((grants.owners().len(), grants.doors().len()), (1, 2));
}

#[test]
fn what_gave_way_and_is_put_back_is_the_oldest_again() {
    let directory = directory();
    let mut grants = Grants::default();
    for last in [1, 2] {
        let _ = knock(&mut grants, owner(&directory, 0, 1, last), 2, &directory);
    }
    let given_way = knock(&mut grants, owner(&directory, 0, 1, 3), 2, &directory);
    let newest = Before { owner: owner(&directory, 0, 1, 3), until: None };
    for before in [newest].into_iter().chain(given_way) {
        grants.undo(before, &directory);
    }
    let given_way = knock(&mut grants, owner(&directory, 0, 1, 4), 2, &directory);
    assert_eq!(given_way[0].owner, owner(&directory, 0, 1, 1));
    assert_eq!(grants.owners().len(), 2);
}

#[test]
fn all_services_of_an_address_give_way_together() {
    let directory = directory();
    let mut grants = Grants::default();
    for what in 0..3 {
        let _ = knock(&mut grants, owner(&directory, 0, what, 1), 1, &directory);
    }
    let given_way = knock(&mut grants, owner(&directory, 0, 1, 2), 1, &directory);
    assert_eq!(given_way.len(), 3);
    assert_eq!((grants.owners().len(), grants.doors().len()), (1, 1));
}

/// Everybody who holds anything, by brute force.
type Model = BTreeMap<(usize, usize, usize), u64>;

#[test]
fn whoever_holds_a_door_is_found_by_his_source_whatever_network_it_is() {
    let directory = directory();
    for text in ["192.0.2.1", "2001:db8::1", "2001:db8::", "::2", "::5"] {
        let address = UnicastAddress::try_from(text.parse::<IpAddr>().unwrap()).unwrap();
        let mut grants = Grants::default();
        let owner =
            Owner { address, client: client(&directory, 0), service: service(&directory, 0) };
        open(&mut grants, owner, 10, &directory);
        let source = Source::of(address.ip());
        assert!(grants.any_live_of(source, seconds(9)), "{text}");
        assert!(!grants.any_live_of(source, seconds(10)), "{text}");
        assert!(grants.of_source(source).map(|(owner, _)| owner).eq([&owner]), "{text}");
        for other in ["192.0.2.2", "2001:db8:0:1::", "0:0:0:1::5"] {
            assert!(!grants.any_live_of(other.parse().unwrap(), seconds(9)), "{text} {other}");
        }
    }
}

fn expected_doors(model: &Model, directory: &Directory) -> BTreeMap<Door, Uptime> {
    let mut doors = BTreeMap::new();
    for ((who, what, whence), until) in model {
        let _ = who;
        for port in &directory.service(service(directory, *what)).ports {
            let door = Door { address: address(*whence), port: *port };
            let held = doors.entry(door).or_insert(seconds(*until));
            *held = seconds(*until).max(*held);
        }
    }
    doors
}

proptest! {
    #[test]
    fn a_door_is_open_for_as_long_as_anybody_holds_it_whatever_happens(
        steps in proptest::collection::vec((0..4_u8, 0..3_usize, 0..3_usize, 0..2_usize, 1..100_u64), 0..60),
    ) {
        let directory = directory();
        let mut grants = Grants::default();
        let mut model = Model::new();
        let mut kernel = BTreeMap::new();
        let mut now = 0;
        for (action, who, what, whence, time) in steps {
            let owner = Owner {
                address: address(whence),
                client: client(&directory, who),
                service: service(&directory, what),
            };
            let mut changes = Vec::new();
            match action {
                0 => {
                    let _ = grants.close(owner, &directory, &mut changes);
                    model.remove(&(who, what, whence));
                }
                1 => {
                    now += time / 4;
                    let expired: BTreeSet<Owner> =
                        grants.expire(seconds(now), &directory).into_iter().collect();
                    prop_assert_eq!(expired.len(), model.values().filter(|end| **end < now).count());
                    model.retain(|_, end| *end >= now);
                    kernel.retain(|_, end| *end >= seconds(now));
                }
                2 => {
                    let before = grants.open(owner, seconds(now + time), &directory, &mut changes).unwrap();
                    grants.undo(before, &directory);
                    changes.clear();
                }
                _ => {
                    let _ = grants.open(owner, seconds(now + time), &directory, &mut changes).unwrap();
                    let end = model.entry((who, what, whence)).or_insert(0);
                    *end = (now + time).max(*end);
                }
            }
            for change in changes {
                match change.until {
                    Some(until) => kernel.insert(change.door, until),
                    None => kernel.remove(&change.door),
                };
            }
            let expected = expected_doors(&model, &directory);
            let held: BTreeMap<Door, Uptime> =
                grants.doors().map(|(door, until)| (*door, *until)).collect();
            prop_assert_eq!(&held, &expected);
            prop_assert_eq!(&kernel, &expected);
        }
    }
}
