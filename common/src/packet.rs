//! The datagram: tag, nonce, sealed request, mac. PROTOCOL.md, "Datagram".
//!
//! # Security considerations
//! - [`Datagram::open`] checks the mac over bytes 0 to 83 first, in constant time; no other byte of an
//!   unauthentic packet has any effect.
//! - A nonce must never repeat under one key: [`seal`] takes it as an argument, and its caller draws
//!   96 random bits for every packet (RFC 8439, section 4: at a packet a second the odds of a
//!   repetition reach one in a million after some nine thousand years).

use core::fmt;

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use hmac::Mac as _;
use zeroize::Zeroizing;

use crate::{
    error::{Malformed, OpenError},
    keys::{ClientKeys, keyed},
    request::{REQUEST_LEN, Request},
    time::Day,
};

/// Length of a datagram in bytes.
pub const DATAGRAM_LEN: usize = TAG_LEN + NONCE_LEN + REQUEST_LEN + SEAL_TAG_LEN + MAC_LEN;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 8;
/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Length of the Poly1305 tag behind the request (RFC 8439, section 2.8).
const SEAL_TAG_LEN: usize = 16;
const MAC_LEN: usize = 32;

/// What finds the client without naming it: it looks random, and changes every day.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag([u8; TAG_LEN]);

impl Tag {
    /// A tag of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; TAG_LEN]) -> Self {
        Self(bytes)
    }

    /// The tag's bytes, as they stand first in the datagram.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; TAG_LEN] {
        &self.0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:016x})", u64::from_be_bytes(self.0))
    }
}

/// 96 random bits, fresh for every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// A nonce of these bytes, which the caller has just drawn from a random source.
    #[must_use]
    pub const fn from_random(bytes: [u8; NONCE_LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }
}

/// The mac of a datagram. Once [`Datagram::open`] has verified it, it names this packet among all
/// others, and the memory against replays is keyed by it (PROTOCOL.md, step 10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; MAC_LEN]);

impl Mac {
    /// A mac of these bytes, read back from where it was remembered.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; MAC_LEN]) -> Self {
        Self(bytes)
    }

    /// The mac's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; MAC_LEN] {
        &self.0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Mac({:08x}..)", u32::from_be_bytes([a, b, c, d]))
    }
}

/// A datagram as it goes out.
pub type SealedDatagram = [u8; DATAGRAM_LEN];

/// Seals a request into a datagram, under the tag of `day`: the day of its timestamp, or
/// [`Day::COUNTER`] for a client without a clock.
#[must_use]
pub fn seal(keys: &ClientKeys, day: Day, nonce: Nonce, request: &Request) -> SealedDatagram {
    let tag = keys.tag(day);
    let mut sealed = request.to_bytes();
    let cipher = ChaCha20Poly1305::new(keys.seal().into());
    let Ok(seal_tag) = cipher.encrypt_inout_detached(
        &nonce.0.into(),
        tag.as_bytes(),
        sealed.as_mut_slice().into(),
    ) else {
        unreachable!("RFC 8439, section 2.8: 48 bytes are below the limit of 256 GiB");
    };
    let mut hmac = keyed(keys.mac());
    for part in [tag.0.as_slice(), &nonce.0, &sealed, &seal_tag] {
        hmac.update(part);
    }
    let mac = <[u8; MAC_LEN]>::from(hmac.finalize().into_bytes());

    let mut datagram = [0; DATAGRAM_LEN];
    let mut rest = datagram.as_mut_slice();
    for part in [tag.0.as_slice(), &nonce.0, &sealed, &seal_tag, &mac] {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    datagram
}

/// A datagram of the right length, its parts told apart, and nothing about it believed yet.
#[derive(Clone, Copy)]
pub struct Datagram<'a> {
    /// Bytes 0 to 83: all that the mac covers.
    covered: &'a [u8],
    tag: Tag,
    nonce: &'a [u8; NONCE_LEN],
    sealed: &'a [u8; REQUEST_LEN],
    seal_tag: &'a [u8; SEAL_TAG_LEN],
    mac: &'a [u8; MAC_LEN],
}

impl<'a> Datagram<'a> {
    /// Step 1: tells the parts apart.
    ///
    /// # Errors
    /// [`Malformed::Length`] if it isn't [`DATAGRAM_LEN`] bytes long.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::split(bytes).ok_or(Malformed::Length)
    }

    fn split(bytes: &'a [u8]) -> Option<Self> {
        let (covered, mac) = bytes.split_last_chunk::<MAC_LEN>()?;
        let (tag, rest) = covered.split_first_chunk::<TAG_LEN>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (sealed, rest) = rest.split_first_chunk::<REQUEST_LEN>()?;
        let seal_tag = <&[u8; SEAL_TAG_LEN]>::try_from(rest).ok()?;
        Some(Self { covered, tag: Tag(*tag), nonce, sealed, seal_tag, mac })
    }

    /// The tag, to find the client by.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// The mac, to remember the packet by once [`Datagram::open`] has accepted it.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        Mac(*self.mac)
    }

    /// Steps 3 to 5: the request inside, if these are its client's keys and `day` is its tag's.
    ///
    /// # Errors
    /// [`OpenError::BadMac`], [`OpenError::BadSeal`] or [`OpenError::Malformed`], in this order.
    pub fn open(&self, keys: &ClientKeys, day: Day) -> Result<Request, OpenError> {
        let mut hmac = keyed(keys.mac());
        hmac.update(self.covered);
        hmac.verify_slice(self.mac).map_err(|_| OpenError::BadMac)?;

        let mut request = Zeroizing::new(*self.sealed);
        ChaCha20Poly1305::new(keys.seal().into())
            .decrypt_inout_detached(
                &(*self.nonce).into(),
                self.tag.as_bytes(),
                request.as_mut_slice().into(),
                &(*self.seal_tag).into(),
            )
            .map_err(|_| OpenError::BadSeal)?;
        Ok(Request::from_bytes(&request, day)?)
    }
}
