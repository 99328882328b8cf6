//! A client holds doors for so many addresses and no more: its own oldest gives way, and nobody else notices.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, Secret, UnicastAddress, seal,
};
use knockd::{
    admission::KernelState,
    firewall::Firewall as _,
    gate::{
        clock::Now,
        grants::Door,
        policy::{Client, Policy},
    },
};

use host::{Host, at, client, open, policy};

/// What one address more costs the file of grants.
const PLACE: u64 = 128;

/// A client that roams, beside the one that every host has.
fn roamer() -> Client {
    Client { name: "roamer".parse().unwrap(), secret: secret(), ..client() }
}

fn secret() -> Secret {
    let mut bytes = [3; 32];
    bytes[0] = 4;
    Secret::new(bytes).unwrap()
}

/// An address of the network that the roamer has for itself.
fn address(number: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number).into()
}

fn door(number: u16) -> Door {
    let address = UnicastAddress::try_from(address(number)).unwrap();
    Door { address, port: "tcp/8883".parse().unwrap() }
}

/// Its knock from an address, for 60 seconds.
fn knock(number: u16, now: Now) -> (SealedDatagram, IpAddr) {
    let request = Request {
        timestamp: now.utc,
        address: ClientAddress::Literal(door(number).address),
        open_for: OpenFor::Default,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let keys = ClientKeys::derive(&secret(), &Realm::default());
    let mut nonce = [0; 12];
    nonce[..2].copy_from_slice(&number.to_be_bytes());
    (seal(&keys, Day::of(now.utc).unwrap(), Nonce::from_random(nonce), &request), address(number))
}

fn handle(host: &mut Host, knocks: &[(SealedDatagram, IpAddr)], now: Now) -> Vec<String> {
    let batch: Vec<(&[u8], IpAddr)> =
        knocks.iter().map(|(datagram, source)| (datagram.as_slice(), *source)).collect();
    host.handle_from(&batch, now)
}

fn host(per_client: u32) -> Host {
    let mut host = Host::new();
    host.policy = Policy { ..policy() };
    host.policy.grant.per_client = NonZeroU32::new(per_client).unwrap();
    host.policy.replay.capacity = 20_000;
    host.policy.replay.per_client = 20_000;
    host.start_with(at(0), vec![client(), roamer()]);
    host
}

fn is_open(host: &Host, number: u16, now: Now) -> bool {
    host.firewall.0.borrow().is_open(&door(number), now.uptime)
}

fn open_doors(host: &Host) -> usize {
    host.firewall.0.borrow_mut().doors().unwrap().unwrap().len()
}

#[test]
fn a_client_that_knocks_from_ten_thousand_addresses_shuts_nobody_out() {
    let mut host = host(64);
    assert_eq!(host.handle(&[open(1, at(31))], at(31)), ["granted"]);
    let knocks: Vec<_> = (0..10_000).map(|number| knock(number, at(32))).collect();
    for batch in knocks.chunks(256) {
        let told = handle(&mut host, batch, at(32));
        assert!(told.iter().all(|what| what == "granted" || what == "gave way"), "{told:?}");
    }
    // Its latest 64 are in, and who was in before.
    assert_eq!(host.admission().grants().owners().len(), 65);
    assert_eq!(open_doors(&host), 65);
    assert!(
        host.is_open(at(32)) && is_open(&host, 9_999, at(32)) && !is_open(&host, 9_935, at(32))
    );
    assert_eq!(host.handle(&[open(2, at(33))], at(33)), ["granted"]);
    let size = fs::metadata(host.state("grants")).unwrap().len();
    assert!(size <= (1 + 65 + 256) * PLACE, "{size} bytes");
    // A restart finds what was held, and nothing that gave way.
    assert_eq!(host.start_with(at(34), vec![client(), roamer()]).live, 65);
    assert_eq!(open_doors(&host), 65);
}

#[test]
fn a_device_that_moves_on_is_always_let_in_and_the_address_that_it_left_first_gives_way() {
    let mut host = host(2);
    let story = [(1, None), (2, None), (1, None), (3, Some("gave way"))];
    for ((number, more), second) in story.into_iter().zip(31..) {
        let now = at(second);
        let told: Vec<&str> = ["granted"].into_iter().chain(more).collect();
        assert_eq!(handle(&mut host, &[knock(number, now)], now), told, "{number}");
    }
    let open = [1, 2, 3].map(|number| is_open(&host, number, at(35)));
    assert_eq!(open, [true, false, true]);
}

#[test]
fn a_door_that_another_client_holds_stays_open_when_it_gives_way() {
    let mut host = host(1);
    let theirs = door(7);
    let keys = ClientKeys::derive(&host::secret(), &Realm::default());
    let request = Request {
        timestamp: at(31).utc,
        address: ClientAddress::Literal(theirs.address),
        open_for: OpenFor::from_secs(30),
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let day = Day::of(at(31).utc).unwrap();
    let packet = seal(&keys, day, Nonce::from_random([9; 12]), &request);
    assert_eq!(handle(&mut host, &[(packet, address(7))], at(31)), ["granted"]);
    assert_eq!(handle(&mut host, &[knock(7, at(31))], at(31)), ["granted"]);
    assert_eq!(handle(&mut host, &[knock(8, at(32))], at(32)), ["granted", "gave way"]);
    assert!(is_open(&host, 7, at(60)) && !is_open(&host, 7, at(61)));
}

#[test]
fn nothing_gives_way_to_a_knock_that_the_kernel_does_not_open() {
    let mut host = host(1);
    assert_eq!(handle(&mut host, &[knock(1, at(31))], at(31)), ["granted"]);
    host.fail_with(Some(ErrorKind::OutOfMemory));
    assert_eq!(handle(&mut host, &[knock(2, at(32))], at(32)), ["firewall-failed"]);
    host.fail_with(None);
    host.admission().reconcile(at(33)).unwrap();
    assert!(is_open(&host, 1, at(33)) && !is_open(&host, 2, at(33)));
    assert_eq!(host.start_with(at(34), vec![client(), roamer()]).live, 1);
    assert!(is_open(&host, 1, at(34)) && !is_open(&host, 2, at(34)));
}

#[test]
fn changes_that_are_not_confirmed_and_too_many_to_be_remembered_are_left_to_who_keeps_the_table() {
    let mut host = host(8);
    host.firewall.0.borrow_mut().is_kept();
    host.fail_with(Some(ErrorKind::OutOfMemory));
    let refused = |host: &mut Host, from: u16, to: u16| {
        let knocks: Vec<_> = (from..to).map(|number| knock(number, at(31))).collect();
        for batch in knocks.chunks(256) {
            assert!(handle(host, batch, at(31)).iter().all(|what| what == "firewall-failed"));
        }
    };
    refused(&mut host, 0, 4_096);
    host.fail_with(None);
    assert_eq!(host.admission().settle(at(32)).unwrap(), Some(4_096), "one by one");
    host.fail_with(Some(ErrorKind::OutOfMemory));
    refused(&mut host, 5_000, 10_000);
    host.fail_with(None);
    assert_eq!(host.admission().settle(at(33)).unwrap(), None);
    let firewall = host.firewall.0.borrow();
    assert_eq!((firewall.doubted(), firewall.replaced()), (1, 0));
    drop(firewall);
    assert_eq!(host.admission().kernel(), KernelState::Known, "it isn't asked for twice");
}

#[test]
fn of_two_knocks_in_one_batch_the_later_address_is_in() {
    let mut host = host(1);
    let knocks = [knock(1, at(31)), knock(2, at(31))];
    assert_eq!(handle(&mut host, &knocks, at(31)), ["granted", "granted", "gave way"]);
    assert!(!is_open(&host, 1, at(31)) && is_open(&host, 2, at(31)));
    assert_eq!(open_doors(&host), 1);
}

#[test]
fn a_smaller_share_counts_from_the_next_knock_on_before_a_restart_and_after() {
    for restarts in [false, true] {
        let mut host = host(3);
        for number in 1..=3 {
            assert_eq!(handle(&mut host, &[knock(number, at(31))], at(31)), ["granted"]);
        }
        host.policy.grant.per_client = NonZeroU32::MIN;
        if restarts {
            assert_eq!(host.start_with(at(32), vec![client(), roamer()]).live, 3);
        } else {
            let policy = host.policy.clone();
            host.admission().follow(&policy, at(32));
        }
        assert_eq!(open_doors(&host), 3);
        let told = handle(&mut host, &[knock(4, at(62))], at(62));
        assert_eq!(told, ["granted", "gave way", "gave way", "gave way"], "restarts: {restarts}");
        assert_eq!(open_doors(&host), 1);
    }
}
