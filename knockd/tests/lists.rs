//! Scenarios of the lists that the daemon tells page by page.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

mod host;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    time::Duration,
};

use common::{
    Action, ClientAddress, ClientKeys, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    SealedDatagram, seal,
};
use host::{Host, at, client, secret};
use knockd::{
    control::list::{ROWS, bans, grants},
    gate::{
        clock::Now,
        policy::{AddressPolicy, Client},
        source::Source,
    },
};

/// More than two pages, and not a whole number of them.
const MANY: u32 = 1_003;
const _: () = assert!(MANY as usize > 2 * ROWS && !(MANY as usize).is_multiple_of(ROWS));

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a4d_0000 + number).into()
}

/// A packet for whichever source it comes from.
fn knock(number: u32, now: Now) -> SealedDatagram {
    let request = Request {
        timestamp: now.utc,
        address: ClientAddress::Observed,
        open_for: OpenFor::Default,
        action: Action::Open,
        reply: ReplyWanted::No,
        service: None,
    };
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    let keys = ClientKeys::derive(&secret(), &Realm::default());
    seal(&keys, Day::of(now.utc).unwrap(), Nonce::from_random(nonce), &request)
}

/// A host at which clients at these addresses have knocked.
fn with_grants(numbers: impl Iterator<Item = u32>, now: Now) -> Host {
    let mut host = Host::new();
    host.policy.replay.capacity = 2 * MANY;
    host.policy.replay.per_client = 2 * MANY;
    host.policy.grant.per_client = NonZeroU32::new(MANY).unwrap();
    host.start_with(at(0), vec![Client { address: AddressPolicy::Observed, ..client() }]);
    for number in numbers {
        let packet = knock(number, now);
        assert_eq!(host.handle_from(&[(packet.as_slice(), address(number))], now), ["granted"]);
    }
    host
}

#[test]
fn every_grant_is_in_one_page_however_many_there_are() {
    let now = at(40);
    let mut host = with_grants(1..=MANY, now);
    let (mut listed, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = grants(host.admission(), after, now);
        assert!(page.grants.len() <= ROWS);
        pages += 1;
        listed.extend(page.grants.into_iter().map(|row| row.address));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!((pages, listed.len()), (3, MANY as usize));
    let all: BTreeSet<String> = (1..=MANY).map(|number| address(number).to_string()).collect();
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
}

#[test]
fn a_grant_that_is_renewed_while_the_pages_are_read_is_in_one_of_them_all_the_same() {
    let now = at(40);
    let mut host = with_grants(1..=MANY, now);
    let first = grants(host.admission(), None, now);
    for number in [1, MANY] {
        let later = at(41);
        let packet = knock(number, later);
        host.handle_from(&[(packet.as_slice(), address(number))], later);
    }
    let mut listed: Vec<String> = first.grants.into_iter().map(|row| row.address).collect();
    let mut after = first.next;
    while let Some(mark) = after {
        let page = grants(host.admission(), Some(mark), at(41));
        listed.extend(page.grants.into_iter().map(|row| row.address));
        after = page.next;
    }
    for number in [1, MANY] {
        let address = address(number).to_string();
        assert_eq!(listed.iter().filter(|listed| **listed == address).count(), 1, "{address}");
    }
}

#[test]
fn a_grant_that_is_over_is_in_no_page() {
    let now = at(40);
    let mut host = with_grants(1..=3, now);
    let row = grants(host.admission(), None, now).grants.remove(0);
    assert_eq!(row.client.as_deref(), Some("press-17"));
    assert_eq!((row.service.as_deref(), row.ports), (Some("mqtts"), vec!["tcp/8883".to_owned()]));
    assert_eq!(row.remaining_s, 60);
    // Over, and perhaps not let go of yet.
    for seconds in [100, 101, 102] {
        assert_eq!(grants(host.admission(), None, at(seconds)).grants, [], "{seconds}");
    }
}

#[test]
fn every_ban_is_in_one_page_however_many_end_at_the_same_moment() {
    let now = at(40);
    let mut host = Host::warmed_up();
    for number in 1..=MANY {
        let length = Duration::from_secs(60 + u64::from(number % 2));
        let reason = "stolen".parse().unwrap();
        host.admission().ban(Source::of(address(number)), length, reason, now).unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = bans(host.admission(), after.as_ref(), now);
        assert!(page.bans.len() <= ROWS);
        listed.extend(page.bans);
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!(listed.len(), MANY as usize);
    assert!(listed.iter().all(|row| row.by == "admin" && row.reason.as_deref() == Some("stolen")));
    let sources: BTreeSet<&str> = listed.iter().map(|row| row.source.as_str()).collect();
    assert_eq!(sources.len(), MANY as usize);
}
