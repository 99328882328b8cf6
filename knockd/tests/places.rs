//! Clients come and go: the place of one that is gone is another's, and nothing of the one passes to the other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::collections::HashSet;

use common::{Realm, Secret};
use knockd::gate::{
    directory::{ClientId, Enrolment},
    policy::Client,
};

use host::{Host, at, client, open, packet_for};

fn secret(number: u8) -> Secret {
    let mut bytes = [number; 32];
    bytes[0] = !number;
    Secret::new(bytes).unwrap()
}

fn other(number: u8) -> Client {
    Client { name: format!("other-{number}").parse().unwrap(), secret: secret(number), ..client() }
}

fn add(host: &mut Host, client: Client) -> ClientId {
    let enrolment = Enrolment::new(client, &Realm::default());
    host.admission().gate_mut().directory_mut().add(enrolment)
}

/// Removes a client as a reload does.
fn remove(host: &mut Host, client: ClientId) {
    let gone = HashSet::from([client]);
    let admission = host.admission();
    admission.gate_mut().directory_mut().remove(client);
    admission.revoke_what_is_not_allowed(&gone, at(32)).unwrap();
    admission.gate_mut().forget(&gone);
}

#[test]
fn the_place_of_a_removed_client_is_used_again_and_nothing_of_it_passes_to_the_next() {
    let mut host = Host::new();
    host.policy.replay.per_client = 1;
    host.start(at(0));
    let first = host.admission().gate().directory().clients_by_name()["press-17"];
    let not_its_own = packet_for(&host::secret(), "none".parse().ok(), 8, at(31));
    assert_eq!(
        host.handle(&[not_its_own, open(1, at(31))], at(31)),
        ["service-not-allowed", "granted"]
    );
    remove(&mut host, first);
    assert!(!host.is_open(at(32)));

    let next = add(&mut host, other(1));
    assert_eq!(next, first);
    let admission = host.admission();
    let gate = admission.gate();
    assert_eq!(gate.directory().name(next), "other-1");
    assert_eq!((gate.directory().places(), gate.directory().len()), (1, 1));
    assert_eq!(gate.denials().of(next), None);
    assert_eq!(gate.skews().page(0, 9).0.count(), 0);
    assert!(admission.doors_of(next).is_empty());
    assert!(admission.gate().replay().packets().all(|packet| packet.client.is_none()));
    assert_eq!(admission.grants().owners().len(), 0);
    // Its share is its own, and what the former client sent is nobody's.
    let knock = packet_for(&secret(1), None, 2, at(32));
    assert_eq!(host.handle(&[open(1, at(31)), knock], at(32)), ["unknown-tag", "granted"]);

    // Back again, the former has another place, and its used packet stays used.
    let again = add(&mut host, client());
    assert_ne!(again, next);
    assert_eq!(host.handle(&[open(1, at(31)), open(3, at(33))], at(33)), ["replayed", "granted"]);
}

#[test]
fn a_place_is_nobodys_until_the_gate_has_forgotten_its_client() {
    let mut host = Host::warmed_up();
    let first = host.admission().gate().directory().clients_by_name()["press-17"];
    host.admission().gate_mut().directory_mut().remove(first);
    let next = add(&mut host, other(1));
    assert_ne!(next, first);
    assert_eq!(host.admission().gate().directory().name(first), "press-17");
    host.admission().gate_mut().forget(&[first, next].into());
    assert_eq!(add(&mut host, other(2)), first);
    // One that is there still has its place.
    assert_eq!(host.admission().gate().directory().name(next), "other-1");
}

#[test]
fn however_often_clients_come_and_go_they_take_no_more_places_and_keep_their_names() {
    let mut host = Host::warmed_up();
    for round in 0..200_u8 {
        let id = add(&mut host, other(round));
        let knock = packet_for(&secret(round), None, round, at(31));
        assert_eq!(host.handle(&[knock], at(31)), ["granted"], "{round}");
        let directory = host.admission().gate().directory();
        assert_eq!(directory.places(), 2);
        assert_eq!(directory.name(id), format!("other-{round}"));
        assert!(directory.clients_by_name().contains_key("press-17"));
        remove(&mut host, id);
    }
    assert_eq!(host.handle(&[open(1, at(33))], at(33)), ["granted"]);
}
