//! What is asked for: a packet's request, whose bytes are refused with the field that is wrong or are exactly
//! those of a request; a line on the control socket; and what comes back to a client.

use std::{net::Ipv6Addr, sync::LazyLock};

use common::{
    Action, ClientAddress, ClientKeys, DATAGRAM_LEN, Datagram, Day, Malformed, Nonce, REQUEST_LEN,
    Realm, ReplyWanted, Request, Secret, Timestamp, seal,
};

use crate::{control::control, input::Input, reply::reply};

/// The first byte says of which day the tag is, and then come the request's 48 bytes; or it is [`CONTROL`] or [`REPLY`].
pub fn request(data: &[u8]) {
    if let [CONTROL, line @ ..] = data {
        return control(line);
    }
    if let [REPLY, rest @ ..] = data {
        return reply(rest);
    }
    assert_eq!(Datagram::parse(data).is_ok(), data.len() == DATAGRAM_LEN);

    let mut input = Input::new(data);
    let choice = input.below(4);
    let Ok(bytes) = <[u8; REQUEST_LEN]>::try_from(input.bytes(REQUEST_LEN)) else { return };
    let own_day = Day::of(Timestamp::from_millis(u64::from_be_bytes(*first(&bytes))));
    let day = match choice {
        0 => own_day,
        1 => own_day.and_then(Day::next),
        2 => own_day.and_then(Day::previous),
        _ => None,
    }
    .unwrap_or(Day::COUNTER);
    match Request::from_bytes(&bytes, day) {
        Err(wrong) => assert!(is_wrong(wrong, &bytes, day, own_day), "{wrong} in {bytes:02x?}"),
        Ok(request) => {
            assert_eq!(request.to_bytes(), bytes);
            assert!(ALL.iter().all(|field| !is_wrong(*field, &bytes, day, own_day)));
            holds_what_the_bytes_say(&request, &bytes);
            opens_again(&request, day);
        }
    }
}

/// The first byte of an input that is a line on the control socket.
const CONTROL: u8 = 0xff;
/// The first byte of an input that is a reply.
const REPLY: u8 = 0xfe;

const ALL: [Malformed; 6] = [
    Malformed::Day,
    Malformed::Address,
    Malformed::Action,
    Malformed::Flags,
    Malformed::Reserved,
    Malformed::Service,
];

/// PROTOCOL.md, "Malformed, and refused", said again on the bytes alone.
fn is_wrong(field: Malformed, bytes: &[u8; REQUEST_LEN], day: Day, own_day: Option<Day>) -> bool {
    match field {
        Malformed::Length => false,
        Malformed::Day => day != Day::COUNTER && own_day != Some(day),
        Malformed::Address => !is_a_clients(bytes[8..24].try_into().unwrap()),
        Malformed::Action => ![1, 2].contains(&bytes[28]),
        Malformed::Flags => bytes[29] > 1,
        Malformed::Reserved => bytes[30..32] != [0, 0],
        Malformed::Service => {
            let name = &bytes[32..];
            let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let good = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
            let starts_well = name[..end].first().is_none_or(good);
            !starts_well || !name[..end].iter().all(|byte| good(byte) || b"._-".contains(byte))
        }
    }
}

pub(crate) fn is_a_clients(octets: [u8; 16]) -> bool {
    match (Ipv6Addr::from(octets).to_ipv4_mapped().map(|v4| v4.octets()), octets) {
        (Some([0, 0, 0, 0] | [127, ..] | [169, 254, ..] | [255, 255, 255, 255]), _) => false,
        (Some([first, ..]), _) => !(224..240).contains(&first),
        (None, [0xff, ..]) => false,
        (None, [0xfe, second, ..]) => second & 0xc0 != 0x80,
        (None, octets) => octets != Ipv6Addr::LOCALHOST.octets(),
    }
}

fn holds_what_the_bytes_say(request: &Request, bytes: &[u8; REQUEST_LEN]) {
    let zero_address = bytes[8..24] == [0; 16];
    assert_eq!(request.address == ClientAddress::Observed, zero_address);
    assert_eq!(request.open_for.as_secs().to_be_bytes(), bytes[24..28]);
    assert_eq!(request.action == Action::Open, bytes[28] == 1);
    assert_eq!(request.reply == ReplyWanted::Yes, bytes[29] == 1);
    assert_eq!(request.service.is_none(), bytes[32] == 0);
}

fn opens_again(request: &Request, day: Day) {
    static KEYS: LazyLock<ClientKeys> = LazyLock::new(|| {
        let secret = Secret::new(std::array::from_fn(|at| at as u8)).unwrap();
        ClientKeys::derive(&secret, &Realm::default())
    });
    let datagram = seal(&KEYS, day, Nonce::from_random([0; 12]), request);
    let parsed = Datagram::parse(&datagram).unwrap();
    assert_eq!(parsed.tag(), KEYS.tag(day));
    assert_eq!(parsed.open(&KEYS, day), Ok(*request));
}

fn first<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().unwrap()
}
