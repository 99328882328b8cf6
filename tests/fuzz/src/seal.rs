//! Seals any 48 bytes into a datagram, also such as no client of ours would: PROTOCOL.md, "Datagram".

use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, KeyInit as _};
use common::{ClientKeys, DATAGRAM_LEN, Day, REQUEST_LEN};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

pub(crate) fn seal(
    keys: &ClientKeys,
    day: Day,
    nonce: [u8; 12],
    request: &[u8; REQUEST_LEN],
) -> [u8; DATAGRAM_LEN] {
    let [_, seal_key, mac_key] = keys.expose_for_vectors();
    let tag = *keys.tag(day).as_bytes();
    let mut sealed = *request;
    let seal_tag = ChaCha20Poly1305::new(seal_key.into())
        .encrypt_inout_detached(&nonce.into(), &tag, sealed.as_mut_slice().into())
        .expect("48 bytes can be sealed");
    let covered = [&tag[..], &nonce, &sealed, &seal_tag].concat();
    let mut hmac = Hmac::<Sha256>::new_from_slice(mac_key).expect("HMAC takes a key of any length");
    hmac.update(&covered);
    let mac: [u8; 32] = hmac.finalize().into_bytes().into();
    [covered, mac.to_vec()].concat().try_into().expect("the lengths add up")
}
