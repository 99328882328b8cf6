//! What comes back to a client: any bytes, and any fields, sealed as no daemon would.

use std::{net::Ipv6Addr, sync::LazyLock};

use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, KeyInit as _};
use common::{
    ClientKeys, DoorState, Mac, Nonce, REPLY_LEN, Realm, Reply, ReplyError, ReplyKeys, Secret,
};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{input::Input, request::is_a_clients};

const BODY_LEN: usize = 40;

/// The first byte says whether the rest is what comes in, or is what is sealed in it.
pub(crate) fn reply(data: &[u8]) {
    static KEYS: LazyLock<ReplyKeys> = LazyLock::new(|| {
        let secret = Secret::new(std::array::from_fn(|at| at as u8)).unwrap();
        ReplyKeys::of(&ClientKeys::derive(&secret, &Realm::default()))
    });
    let mut input = Input::new(data);
    let request = Mac::from_bytes([7; 32]);
    if input.below(2) == 0 {
        let bytes = input.rest();
        let error = match bytes.len() {
            REPLY_LEN => ReplyError::BadMac,
            _ => ReplyError::Length,
        };
        assert_eq!(Reply::open(bytes, &KEYS, request), Err(error));
        return;
    }
    let Ok(body) = <[u8; BODY_LEN]>::try_from(input.bytes(BODY_LEN)) else { return };
    let sealed = seal(&KEYS, request, &body);
    assert_eq!(Reply::open(&sealed, &KEYS, Mac::from_bytes([8; 32])), Err(ReplyError::BadMac));
    match Reply::open(&sealed, &KEYS, request) {
        Err(error) => assert!(error == ReplyError::Malformed && !is_sound(&body), "{body:02x?}"),
        Ok(reply) => {
            assert!(is_sound(&body), "{body:02x?}");
            assert_eq!(reply.clock.as_millis().to_be_bytes(), body[..8]);
            assert_eq!(reply.door == DoorState::Closed, body[32] == 2);
            assert_eq!(reply.seal(&KEYS, request, Nonce::from_random([9; 12])), sealed);
        }
    }
}

/// PROTOCOL.md, "Reply", said again on the bytes alone.
fn is_sound(body: &[u8; BODY_LEN]) -> bool {
    let seen: [u8; 16] = body[8..24].try_into().unwrap();
    let is_an_address = seen != Ipv6Addr::UNSPECIFIED.octets() && is_a_clients(seen);
    let is_a_result = body[32] == 1 || body[32] == 2 && body[24..32] == [0; 8];
    is_an_address && is_a_result && body[33..] == [0; 7]
}

fn seal(keys: &ReplyKeys, request: Mac, body: &[u8; BODY_LEN]) -> [u8; REPLY_LEN] {
    let [seal_key, mac_key] = keys.expose_for_vectors();
    let (nonce, mut sealed) = ([9; 12], *body);
    let seal_tag = ChaCha20Poly1305::new(seal_key.into())
        .encrypt_inout_detached(&nonce.into(), request.as_bytes(), sealed.as_mut_slice().into())
        .expect("40 bytes can be sealed");
    let covered = [&nonce[..], &sealed, &seal_tag].concat();
    let mut hmac = Hmac::<Sha256>::new_from_slice(mac_key).expect("HMAC takes a key of any length");
    hmac.update(request.as_bytes());
    hmac.update(&covered);
    let mac: [u8; 32] = hmac.finalize().into_bytes().into();
    [covered, mac.to_vec()].concat().try_into().expect("the lengths add up")
}
