//! Nonces that don't repeat where randomness isn't what it should be. PROTOCOL.md, "Datagram".
//!
//! # Security considerations
//! - A nonce that comes twice under one key, with two requests, gives both away and lets others forge the seal. A small
//!   device may draw the same bytes after each start: before its radio runs, or from an image that was copied.
//! - A hedged nonce depends on the whole request as well, under the client's own key: the same random bytes twice make
//!   the same nonce only for the same request, timestamp included. Good random bytes are as good here as by themselves.

use zeroize::Zeroizing;

use crate::{
    keys::ClientKeys,
    packet::{NONCE_LEN, Nonce},
    request::{REQUEST_LEN, Request},
};

const LABEL: &[u8] = b"nonce";

impl Nonce {
    /// A nonce for this request: the first 12 bytes of HKDF-Expand(PRK, "nonce" || request || `random`) (RFC 5869,
    /// section 2.3). `random` is fresh, from the device's best source.
    #[must_use]
    pub fn hedged(keys: &ClientKeys, request: &Request, random: [u8; NONCE_LEN]) -> Self {
        let mut info = Zeroizing::new([0; LABEL.len() + REQUEST_LEN + NONCE_LEN]);
        let request = Zeroizing::new(request.to_bytes());
        for (byte, from) in info.iter_mut().zip(LABEL.iter().chain(&*request).chain(&random)) {
            *byte = *from;
        }
        let mut output = Zeroizing::new([0; 32]);
        keys.expand(info.as_slice(), &mut output);
        Self::from_random(core::array::from_fn(|at| output.get(at).copied().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, ClientAddress, OpenFor, Realm, ReplyWanted, Secret, Timestamp};

    fn request(stamp: u64, action: Action) -> Request {
        Request {
            timestamp: Timestamp::from_millis(stamp),
            address: ClientAddress::Observed,
            open_for: OpenFor::Default,
            action,
            reply: ReplyWanted::No,
            service: None,
        }
    }

    fn nonce(key: u8, stamp: u64, action: Action, random: u8) -> Nonce {
        let mut secret = [key; 32];
        secret[0] = !key;
        let keys = ClientKeys::derive(&Secret::new(secret).unwrap(), &Realm::default());
        Nonce::hedged(&keys, &request(stamp, action), [random; NONCE_LEN])
    }

    #[test]
    fn the_same_random_bytes_twice_make_the_same_nonce_for_the_same_request_and_key_alone() {
        let first = nonce(1, 7, Action::Open, 0);
        assert_eq!(first, nonce(1, 7, Action::Open, 0));
        for other in [
            nonce(1, 8, Action::Open, 0),
            nonce(1, 7, Action::Close, 0),
            nonce(2, 7, Action::Open, 0),
            nonce(1, 7, Action::Open, 1),
        ] {
            assert_ne!(first, other);
        }
    }
}
