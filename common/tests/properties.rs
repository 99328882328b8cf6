//! What holds for every request, every key and every datagram.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that goes wrong ends with a panic"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{
    Action, ClientAddress, ClientKeys, DATAGRAM_LEN, Datagram, Day, Malformed, Nonce, OpenError,
    OpenFor, REQUEST_LEN, Realm, ReplyWanted, Request, Secret, ServiceName, Timestamp,
    UnicastAddress, seal,
};
use proptest::prelude::*;

fn keys() -> impl Strategy<Value = ClientKeys> {
    (any::<[u8; 32]>(), "[ -~]{0,64}").prop_filter_map(
        "a key of one repeated byte",
        |(bytes, realm)| {
            Some(ClientKeys::derive(&Secret::new(bytes).ok()?, &Realm::new(&realm).ok()?))
        },
    )
}

fn address() -> impl Strategy<Value = ClientAddress> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ];
    prop_oneof![
        1 => Just(ClientAddress::Observed),
        9 => ip.prop_filter_map("not a client's address", |ip| {
            UnicastAddress::try_from(ip).ok().map(ClientAddress::Literal)
        }),
    ]
}

fn service() -> impl Strategy<Value = Option<ServiceName>> {
    proptest::option::of("[a-z0-9][a-z0-9._-]{0,15}".prop_map(|name| name.parse().unwrap()))
}

prop_compose! {
    fn request()(
        timestamp in 0..u64::from(u32::MAX) * 86_400_000,
        address in address(),
        open_for in any::<u32>(),
        action in prop_oneof![Just(Action::Open), Just(Action::Close)],
        reply in prop_oneof![Just(ReplyWanted::No), Just(ReplyWanted::Yes)],
        service in service(),
    ) -> Request {
        Request {
            timestamp: Timestamp::from_millis(timestamp),
            address,
            open_for: OpenFor::from_secs(open_for),
            action,
            reply,
            service,
        }
    }
}

fn day(request: &Request) -> Day {
    Day::of(request.timestamp).unwrap()
}

fn open(bytes: &[u8], keys: &ClientKeys, day: Day) -> Result<Request, OpenError> {
    Datagram::parse(bytes)?.open(keys, day)
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same_request(
        keys in keys(), request in request(), nonce in any::<[u8; 12]>(),
    ) {
        let day = day(&request);
        let datagram = seal(&keys, day, Nonce::from_random(nonce), &request);
        prop_assert_eq!(open(&datagram, &keys, day), Ok(request));
    }

    #[test]
    fn a_packet_of_a_client_without_a_clock_opens_on_the_counter_day_alone(
        keys in keys(), request in request(), counter in any::<u64>(), nonce in any::<[u8; 12]>(),
    ) {
        let request = Request { timestamp: Timestamp::from_millis(counter), ..request };
        let datagram = seal(&keys, Day::COUNTER, Nonce::from_random(nonce), &request);
        prop_assert_eq!(open(&datagram, &keys, Day::COUNTER), Ok(request));
    }

    #[test]
    fn under_another_clients_keys_the_mac_does_not_match(
        keys in keys(), other in keys(), request in request(), nonce in any::<[u8; 12]>(),
    ) {
        let day = day(&request);
        prop_assume!(keys.tag(day) != other.tag(day));
        let datagram = seal(&keys, day, Nonce::from_random(nonce), &request);
        prop_assert_eq!(open(&datagram, &other, day), Err(OpenError::BadMac));
    }

    #[test]
    fn on_another_day_than_the_tags_a_request_is_malformed(
        keys in keys(), request in request(), nonce in any::<[u8; 12]>(),
    ) {
        let day = day(&request);
        let datagram = seal(&keys, day, Nonce::from_random(nonce), &request);
        for other in [day.previous(), day.next()].into_iter().flatten() {
            prop_assert_eq!(open(&datagram, &keys, other), Err(Malformed::Day.into()));
        }
    }

    #[test]
    fn no_bytes_of_any_length_panic(
        keys in keys(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        exact in proptest::collection::vec(any::<u8>(), DATAGRAM_LEN),
    ) {
        prop_assert!(open(&bytes, &keys, Day::COUNTER).is_err());
        prop_assert_eq!(open(&exact, &keys, Day::COUNTER), Err(OpenError::BadMac));
    }

    #[test]
    fn any_48_bytes_are_refused_or_are_exactly_the_bytes_of_a_request(
        bytes in any::<[u8; REQUEST_LEN]>(), mostly_zero in any::<[u8; 8]>(),
    ) {
        let mut plausible = [0; REQUEST_LEN];
        plausible[..8].copy_from_slice(&mostly_zero);
        plausible[28] = 1;
        for bytes in [bytes, plausible] {
            if let Ok(request) = Request::from_bytes(&bytes, Day::COUNTER) {
                prop_assert_eq!(request.to_bytes(), bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_single_flipped_bit_is_refused(
        keys in keys(), request in request(), nonce in any::<[u8; 12]>(),
    ) {
        let day = day(&request);
        let genuine = seal(&keys, day, Nonce::from_random(nonce), &request);
        for bit in 0..DATAGRAM_LEN * 8 {
            let mut datagram = genuine;
            datagram[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&datagram, &keys, day), Err(OpenError::BadMac), "bit {}", bit);
        }
    }

    #[test]
    fn any_truncation_and_any_extension_is_refused(
        keys in keys(), request in request(), nonce in any::<[u8; 12]>(), byte in any::<u8>(),
    ) {
        let day = day(&request);
        let genuine = seal(&keys, day, Nonce::from_random(nonce), &request);
        for length in 0..DATAGRAM_LEN {
            prop_assert_eq!(open(&genuine[..length], &keys, day), Err(Malformed::Length.into()));
        }
        let mut longer = genuine.to_vec();
        while longer.len() < 4 * DATAGRAM_LEN {
            longer.push(byte);
            prop_assert_eq!(open(&longer, &keys, day), Err(Malformed::Length.into()));
        }
    }
}
