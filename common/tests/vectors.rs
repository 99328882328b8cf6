//! Every vector of `vectors/wire-format-1.json`, byte for byte, in both directions. They were made by
//! an implementation that shares no code with this one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::net::IpAddr;

use common::{
    Action, ClientAddress, ClientKeys, Datagram, Day, Nonce, OpenFor, Realm, ReplyWanted, Request,
    Secret, Timestamp, UnicastAddress, seal,
};
use data_encoding::HEXLOWER;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    secret: String,
    realm: String,
    timestamp: u64,
    address: Option<IpAddr>,
    open_for_s: u32,
    action: u8,
    flags: u8,
    service: String,
    nonce: String,
    day: u32,
    key_tag: String,
    key_seal: String,
    key_mac: String,
    request: String,
    datagram: String,
}

impl Vector {
    fn keys(&self) -> ClientKeys {
        let secret = Secret::new(bytes(&self.secret)).unwrap();
        ClientKeys::derive(&secret, &Realm::new(&self.realm).unwrap())
    }

    fn day(&self) -> Day {
        let day = match self.day {
            u32::MAX => Day::COUNTER,
            _ => Day::of(Timestamp::from_millis(self.timestamp)).unwrap(),
        };
        assert_eq!(day.number(), self.day, "{}", self.name);
        day
    }

    fn request(&self) -> Request {
        Request {
            timestamp: Timestamp::from_millis(self.timestamp),
            address: self.address.map_or(ClientAddress::Observed, |address| {
                ClientAddress::Literal(UnicastAddress::try_from(address).unwrap())
            }),
            open_for: OpenFor::from_secs(self.open_for_s),
            action: [Action::Open, Action::Close][usize::from(self.action) - 1],
            reply: [ReplyWanted::No, ReplyWanted::Yes][usize::from(self.flags)],
            service: (!self.service.is_empty()).then(|| self.service.parse().unwrap()),
        }
    }
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

fn vectors() -> Vec<Vector> {
    let file: File = serde_json::from_str(include_str!("../vectors/wire-format-1.json")).unwrap();
    assert_eq!(file.format, "knock wire format 1");
    assert!(!file.vectors.is_empty());
    file.vectors
}

#[test]
fn every_vectors_keys_are_derived_as_given() {
    for vector in vectors() {
        let keys = vector.keys();
        let derived = keys.expose_for_vectors().map(|key| HEXLOWER.encode(key));
        let given = [&vector.key_tag, &vector.key_seal, &vector.key_mac].map(String::clone);
        assert_eq!(derived, given, "{}", vector.name);
    }
}

#[test]
fn every_vectors_request_has_the_given_bytes_in_both_directions() {
    for vector in vectors() {
        let given = bytes(&vector.request);
        assert_eq!(vector.request().to_bytes(), given, "{}", vector.name);
        assert_eq!(
            Request::from_bytes(&given, vector.day()),
            Ok(vector.request()),
            "{}",
            vector.name
        );
    }
}

#[test]
fn every_vector_is_sealed_to_the_given_datagram() {
    for vector in vectors() {
        let nonce = Nonce::from_random(bytes(&vector.nonce));
        let datagram = seal(&vector.keys(), vector.day(), nonce, &vector.request());
        assert_eq!(HEXLOWER.encode(&datagram), vector.datagram, "{}", vector.name);
    }
}

#[test]
fn every_vectors_datagram_opens_to_the_given_request() {
    for vector in vectors() {
        let datagram: [u8; common::DATAGRAM_LEN] = bytes(&vector.datagram);
        let datagram = Datagram::parse(&datagram).unwrap();
        let keys = vector.keys();
        assert_eq!(datagram.tag(), keys.tag(vector.day()), "{}", vector.name);
        assert_eq!(datagram.open(&keys, vector.day()), Ok(vector.request()), "{}", vector.name);
    }
}
