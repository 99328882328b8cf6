//! Replies: every vector of `vectors/reply-1.json`, byte for byte, and what holds for every reply. The vectors were
//! made by an implementation that shares no code with this one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{
    ClientKeys, DATAGRAM_LEN, Day, DoorState, Mac, Nonce, REPLY_LEN, Realm, Reply, ReplyError,
    ReplyKeys, Secret, Timestamp, UnicastAddress,
};
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    vectors: Vec<Vector>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    secret: String,
    realm: String,
    request_mac: String,
    nonce: String,
    clock: u64,
    seen: IpAddr,
    until: u64,
    result: u8,
    key_reply_seal: String,
    key_reply_mac: String,
    body: String,
    reply: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    name: String,
    reason: String,
    reply: String,
}

impl Vector {
    fn keys(&self) -> ReplyKeys {
        let secret = Secret::new(bytes(&self.secret)).unwrap();
        ReplyKeys::of(&ClientKeys::derive(&secret, &Realm::new(&self.realm).unwrap()))
    }

    fn request(&self) -> Mac {
        Mac::from_bytes(bytes(&self.request_mac))
    }

    fn reply(&self) -> Reply {
        let until = DoorState::OpenUntil(Timestamp::from_millis(self.until));
        Reply {
            clock: Timestamp::from_millis(self.clock),
            seen: UnicastAddress::try_from(self.seen).unwrap(),
            door: [until, DoorState::Closed][usize::from(self.result) - 1],
        }
    }
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

fn file() -> File {
    let file: File = serde_json::from_str(include_str!("../vectors/reply-1.json")).unwrap();
    assert_eq!(file.format, "knock wire format 1: replies");
    assert!(!file.vectors.is_empty() && !file.refused.is_empty());
    file
}

#[test]
fn every_vectors_reply_keys_are_derived_as_given() {
    for vector in file().vectors {
        let derived = vector.keys().expose_for_vectors().map(|key| HEXLOWER.encode(key));
        assert_eq!(derived, [vector.key_reply_seal, vector.key_reply_mac], "{}", vector.name);
    }
}

#[test]
fn every_vector_is_sealed_to_the_given_reply_and_opens_to_the_given_fields() {
    for vector in file().vectors {
        let nonce = Nonce::from_random(bytes(&vector.nonce));
        let (keys, request) = (vector.keys(), vector.request());
        let sealed = vector.reply().seal(&keys, request, nonce);
        assert_eq!(HEXLOWER.encode(&sealed), vector.reply, "{}", vector.name);
        assert_eq!(Reply::open(&sealed, &keys, request), Ok(vector.reply()), "{}", vector.name);
        assert_eq!(bytes::<40>(&vector.body)[..8], vector.clock.to_be_bytes());
    }
}

#[test]
fn each_of_the_refused_replies_is_refused_with_its_reason() {
    let file = file();
    let (keys, request) = (file.vectors[0].keys(), file.vectors[0].request());
    for Refused { name, reason, reply } in file.refused {
        let error = Reply::open(&HEXLOWER.decode(reply.as_bytes()).unwrap(), &keys, request);
        let expected = match reason.as_str() {
            "length" => ReplyError::Length,
            "bad-mac" => ReplyError::BadMac,
            "bad-seal" => ReplyError::BadSeal,
            _ => ReplyError::Malformed,
        };
        assert_eq!(error, Err(expected), "{name}");
    }
}

#[test]
fn a_reply_is_shorter_than_any_request() {
    const { assert!(REPLY_LEN < DATAGRAM_LEN) };
}

fn keys() -> impl Strategy<Value = ReplyKeys> {
    any::<[u8; 32]>().prop_filter_map("a key of one repeated byte", |bytes| {
        Some(ReplyKeys::of(&ClientKeys::derive(&Secret::new(bytes).ok()?, &Realm::default())))
    })
}

prop_compose! {
    fn reply()(
        clock in any::<u64>(),
        seen in prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
        ].prop_filter_map("not a client's address", |ip| UnicastAddress::try_from(ip).ok()),
        door in prop_oneof![
            any::<u64>().prop_map(|until| DoorState::OpenUntil(Timestamp::from_millis(until))),
            Just(DoorState::Closed),
        ],
    ) -> Reply {
        Reply { clock: Timestamp::from_millis(clock), seen, door }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same_reply_and_to_no_other_request(
        keys in keys(), reply in reply(), mac in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(),
        other in any::<[u8; 32]>(),
    ) {
        prop_assume!(mac != other);
        let sealed = reply.seal(&keys, Mac::from_bytes(mac), Nonce::from_random(nonce));
        prop_assert_eq!(Reply::open(&sealed, &keys, Mac::from_bytes(mac)), Ok(reply));
        prop_assert_eq!(Reply::open(&sealed, &keys, Mac::from_bytes(other)), Err(ReplyError::BadMac));
    }

    #[test]
    fn no_bytes_of_any_length_panic_or_pass_for_a_reply(
        keys in keys(), mac in any::<[u8; 32]>(), bytes in prop::collection::vec(any::<u8>(), 0..300),
        exact in prop::collection::vec(any::<u8>(), REPLY_LEN),
    ) {
        prop_assert!(Reply::open(&bytes, &keys, Mac::from_bytes(mac)).is_err());
        prop_assert_eq!(Reply::open(&exact, &keys, Mac::from_bytes(mac)), Err(ReplyError::BadMac));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_single_flipped_bit_of_a_reply_is_refused(
        keys in keys(), reply in reply(), mac in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(),
    ) {
        let request = Mac::from_bytes(mac);
        let genuine = reply.seal(&keys, request, Nonce::from_random(nonce));
        for bit in 0..REPLY_LEN * 8 {
            let mut flipped = genuine;
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Reply::open(&flipped, &keys, request), Err(ReplyError::BadMac));
        }
    }
}

#[test]
fn the_keys_of_replies_are_none_of_the_keys_of_requests() {
    let secret = Secret::new(std::array::from_fn(|at| u8::try_from(at).unwrap())).unwrap();
    let keys = ClientKeys::derive(&secret, &Realm::default());
    let of_replies = ReplyKeys::of(&keys);
    let mut all = keys.expose_for_vectors().to_vec();
    all.extend(of_replies.expose_for_vectors());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5);
    assert_ne!(keys.tag(Day::COUNTER), keys.tag(Day::of(Timestamp::from_millis(0)).unwrap()));
}
