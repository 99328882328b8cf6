//! The reply to a packet that asked for one and was accepted in full. PROTOCOL.md, "Reply".
//!
//! # Security considerations
//! - A reply is sealed under keys of its own, and both the seal and the mac cover the mac of the request that it
//!   answers: it is worth nothing as the reply to any other, nor back in the other direction.
//! - It is shorter than every request: a forged source gets less than was sent in its name.
//! - A nonce must never repeat under one key, here as in [`crate::seal`]: the caller draws 96 random bits for each.

use core::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use hmac::Mac as _;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    kept::Kept,
    keys::{ClientKeys, HmacSha256, keyed},
    packet::{Mac, NONCE_LEN, Nonce},
    request::UnicastAddress,
    time::Timestamp,
};

/// Length of a reply in bytes.
pub const REPLY_LEN: usize = NONCE_LEN + BODY_LEN + SEAL_TAG_LEN + MAC_LEN;
/// Length of what is sealed in it.
const BODY_LEN: usize = 40;
/// Length of the Poly1305 tag behind it (RFC 8439, section 2.8).
const SEAL_TAG_LEN: usize = 16;
const MAC_LEN: usize = 32;

/// What the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The daemon's clock when it decided.
    pub clock: Timestamp,
    /// The address that the daemon saw, and that the door is for.
    pub seen: UnicastAddress,
    /// What became of the door.
    pub door: DoorState,
}

/// What became of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorState {
    /// It is open until then, by the daemon's clock; of several services, the one that shuts first.
    OpenUntil(Timestamp),
    /// The client's own grant is over.
    Closed,
}

/// Why bytes are not the reply that is waited for. Each is something that a stranger can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// They are not [`REPLY_LEN`] bytes.
    #[error("the length is not that of a reply")]
    Length,
    /// The mac is not this client's for these bytes and this request.
    #[error("the mac does not match")]
    BadMac,
    /// The mac matches, the seal does not open.
    #[error("the seal does not open")]
    BadSeal,
    /// A field is not as the format has it.
    #[error("malformed")]
    Malformed,
}

/// The two keys of a client's replies, derived from its [`ClientKeys`] when there is a reply.
#[derive(Clone)]
pub struct ReplyKeys(Kept<Keys>);

#[derive(Clone, Copy, Default, Zeroize)]
struct Keys {
    seal: [u8; 32],
    mac: [u8; 32],
}

impl ReplyKeys {
    /// The keys of this client's replies.
    #[must_use]
    pub fn of(keys: &ClientKeys) -> Self {
        let mut of_replies = Self(Kept::empty());
        keys.expand(b"reply-seal", &mut of_replies.0.seal);
        keys.expand(b"reply-mac", &mut of_replies.0.mac);
        of_replies
    }

    /// The keys in the order seal, mac: for test vectors alone.
    #[doc(hidden)]
    #[must_use]
    pub fn expose_for_vectors(&self) -> [&[u8; 32]; 2] {
        [&self.0.seal, &self.0.mac]
    }

    fn mac_of(&self, request: Mac, covered: &[u8]) -> HmacSha256 {
        let mut hmac = keyed(&self.0.mac);
        hmac.update(request.as_bytes());
        hmac.update(covered);
        hmac
    }
}

impl fmt::Debug for ReplyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKeys(..)")
    }
}

/// A reply as it goes out.
pub type SealedReply = [u8; REPLY_LEN];

impl Reply {
    /// Seals it as the reply to the request with this mac.
    #[must_use]
    pub fn seal(&self, keys: &ReplyKeys, request: Mac, nonce: Nonce) -> SealedReply {
        let mut sealed = self.to_bytes();
        let cipher = ChaCha20Poly1305::new((&keys.0.seal).into());
        let Ok(seal_tag) = cipher.encrypt_inout_detached(
            &(*nonce.bytes()).into(),
            request.as_bytes(),
            sealed.as_mut_slice().into(),
        ) else {
            unreachable!("RFC 8439, section 2.8: 40 bytes are below the limit of 256 GiB");
        };
        let mut reply = [0; REPLY_LEN];
        let (covered, mac) = reply.split_at_mut(REPLY_LEN - MAC_LEN);
        let mut rest = &mut *covered;
        for part in [nonce.bytes().as_slice(), &sealed, &seal_tag] {
            let (place, behind) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = behind;
        }
        mac.copy_from_slice(&keys.mac_of(request, covered).finalize().into_bytes());
        reply
    }

    /// The reply in these bytes, if these are its client's keys and it answers the request with this mac.
    ///
    /// # Errors
    /// [`ReplyError`]; the mac is checked first, in constant time.
    pub fn open(bytes: &[u8], keys: &ReplyKeys, request: Mac) -> Result<Self, ReplyError> {
        let bytes: &SealedReply = bytes.try_into().map_err(|_| ReplyError::Length)?;
        let (covered, mac) = bytes.split_at(REPLY_LEN - MAC_LEN);
        keys.mac_of(request, covered).verify_slice(mac).map_err(|_| ReplyError::BadMac)?;

        let (nonce, rest) = covered.split_first_chunk::<NONCE_LEN>().ok_or(ReplyError::Length)?;
        let (body, seal_tag) = rest.split_first_chunk::<BODY_LEN>().ok_or(ReplyError::Length)?;
        let seal_tag = <&[u8; SEAL_TAG_LEN]>::try_from(seal_tag).map_err(|_| ReplyError::Length)?;
        let mut body = Zeroizing::new(*body);
        ChaCha20Poly1305::new((&keys.0.seal).into())
            .decrypt_inout_detached(
                &(*nonce).into(),
                request.as_bytes(),
                body.as_mut_slice().into(),
                &(*seal_tag).into(),
            )
            .map_err(|_| ReplyError::BadSeal)?;
        Self::from_bytes(&body).ok_or(ReplyError::Malformed)
    }

    fn to_bytes(self) -> [u8; BODY_LEN] {
        let (until, result) = match self.door {
            DoorState::OpenUntil(until) => (until.as_millis(), RESULT_OPEN),
            DoorState::Closed => (0, RESULT_CLOSED),
        };
        let mut bytes = [0; BODY_LEN];
        let mut rest = bytes.as_mut_slice();
        for field in [
            self.clock.as_millis().to_be_bytes().as_slice(),
            self.seen.octets().as_slice(),
            until.to_be_bytes().as_slice(),
            [result].as_slice(),
        ] {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; BODY_LEN]) -> Option<Self> {
        let (clock, rest) = bytes.split_first_chunk::<8>()?;
        let (seen, rest) = rest.split_first_chunk::<16>()?;
        let (until, rest) = rest.split_first_chunk::<8>()?;
        let (result, reserved) = rest.split_first()?;
        let until = u64::from_be_bytes(*until);
        let door = match (*result, until) {
            (RESULT_OPEN, _) => DoorState::OpenUntil(Timestamp::from_millis(until)),
            (RESULT_CLOSED, 0) => DoorState::Closed,
            _ => return None,
        };
        if reserved.iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(Self {
            clock: Timestamp::from_millis(u64::from_be_bytes(*clock)),
            seen: UnicastAddress::try_from(IpAddr::V6(Ipv6Addr::from(*seen))).ok()?,
            door,
        })
    }
}

const RESULT_OPEN: u8 = 1;
const RESULT_CLOSED: u8 = 2;
