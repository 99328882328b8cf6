//! The shared secret and the keys derived from it. PROTOCOL.md, "Keys".
//!
//! # Security considerations
//! - A secret is 32 random bytes; one that is all the same byte is refused, since it is a mistake and
//!   not a secret. Nothing weaker than a random key is accepted anywhere: no passphrases.
//! - Every key is for one use, by its label: a weakness in one use can't be carried over to another.
//! - Secrets and keys are wiped when dropped, where they stand: see [`crate::kept`]. They have no `Debug` that shows
//!   them and no equality; [`Secret::is_same`] compares in constant time.

use core::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    kept::Kept,
    packet::{TAG_LEN, Tag},
    time::Day,
};

/// Length of a shared secret in bytes.
pub const SECRET_LEN: usize = 32;

pub(crate) type HmacSha256 = Hmac<Sha256>;

/// The 32 random bytes that a client and the daemon share.
#[derive(Clone)]
pub struct Secret(Kept<[u8; SECRET_LEN]>);

/// A secret whose bytes are all the same: nobody's random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all 32 bytes of the key are the same: it isn't random")]
pub struct WeakSecret;

impl Secret {
    /// A secret of these bytes.
    ///
    /// # Errors
    /// [`WeakSecret`] if all the bytes are the same.
    pub fn new(mut bytes: [u8; SECRET_LEN]) -> Result<Self, WeakSecret> {
        let secret = Self::of(&bytes);
        bytes.zeroize();
        secret
    }

    /// A secret of these bytes, which the caller wipes.
    ///
    /// # Errors
    /// [`WeakSecret`] if all the bytes are the same.
    pub fn of(bytes: &[u8; SECRET_LEN]) -> Result<Self, WeakSecret> {
        let mut secret = Self(Kept::empty());
        secret.0.copy_from_slice(bytes);
        let [first, rest @ ..] = &*secret.0;
        if rest.iter().all(|byte| byte == first) { Err(WeakSecret) } else { Ok(secret) }
    }

    /// The bytes themselves, for the one place that writes a new key out.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// Whether two secrets are the same, in constant time.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

const SALT_PREFIX: &[u8] = b"knock/1";

/// Separates gateways that share client secrets but not a replay memory: printable ASCII, at most
/// [`Realm::MAX_LEN`] bytes, empty by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Realm {
    /// The HKDF salt, `"knock/1" || realm`, in its first `len` bytes.
    salt: [u8; SALT_PREFIX.len() + Self::MAX_LEN],
    len: usize,
}

/// A realm that is too long or isn't printable ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a realm is at most 64 printable ASCII characters")]
pub struct InvalidRealm;

impl Realm {
    /// Longest realm in bytes.
    pub const MAX_LEN: usize = 64;

    /// A realm of this name.
    ///
    /// # Errors
    /// [`InvalidRealm`] if it is too long or holds anything but printable ASCII.
    pub fn new(name: &str) -> Result<Self, InvalidRealm> {
        if !name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(InvalidRealm);
        }
        let mut salt = [0; SALT_PREFIX.len() + Self::MAX_LEN];
        let (prefix, rest) = salt.split_at_mut(SALT_PREFIX.len());
        prefix.copy_from_slice(SALT_PREFIX);
        rest.get_mut(..name.len()).ok_or(InvalidRealm)?.copy_from_slice(name.as_bytes());
        Ok(Self { salt, len: SALT_PREFIX.len() + name.len() })
    }

    /// The realm's name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.salt.get(SALT_PREFIX.len()..self.len).unwrap_or_default();
        core::str::from_utf8(name).unwrap_or_default()
    }

    fn salt(&self) -> &[u8] {
        self.salt.get(..self.len).unwrap_or_default()
    }
}

impl Default for Realm {
    fn default() -> Self {
        let mut salt = [0; SALT_PREFIX.len() + Self::MAX_LEN];
        salt.split_at_mut(SALT_PREFIX.len()).0.copy_from_slice(SALT_PREFIX);
        Self { salt, len: SALT_PREFIX.len() }
    }
}

/// The three keys of one client, derived once from its secret and the realm (RFC 5869), and what those of its
/// replies are derived from.
#[derive(Clone)]
pub struct ClientKeys(Kept<Keys>);

#[derive(Clone, Copy, Default, Zeroize)]
struct Keys {
    /// RFC 5869's PRK, the root of all keys: no other is kept for what is rarely used.
    root: [u8; 32],
    tag: [u8; 32],
    seal: [u8; 32],
    mac: [u8; 32],
}

impl ClientKeys {
    /// Derives a client's keys.
    #[must_use]
    pub fn derive(secret: &Secret, realm: &Realm) -> Self {
        let mut keys = Self(Kept::empty());
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(realm.salt()), &*secret.0);
        keys.0.root.copy_from_slice(&prk);
        prk.as_mut_slice().zeroize();
        expand(&hkdf, b"tag", &mut keys.0.tag);
        expand(&hkdf, b"seal", &mut keys.0.seal);
        expand(&hkdf, b"mac", &mut keys.0.mac);
        keys
    }

    pub(crate) fn seal(&self) -> &[u8; 32] {
        &self.0.seal
    }

    pub(crate) fn mac(&self) -> &[u8; 32] {
        &self.0.mac
    }

    /// Another key of this client's, by its label, written to where it is to stand.
    pub(crate) fn expand(&self, label: &[u8], key: &mut [u8; 32]) {
        let Ok(hkdf) = Hkdf::<Sha256>::from_prk(&self.0.root) else {
            unreachable!("RFC 5869, section 2.3: a PRK has at least the hash's 32 bytes");
        };
        expand(&hkdf, label, key);
    }

    /// The tag that this client's packets carry on a day.
    #[must_use]
    pub fn tag(&self, day: Day) -> Tag {
        let mut hmac = keyed(&self.0.tag);
        hmac.update(&day.number().to_be_bytes());
        let output = Zeroizing::new(<[u8; 32]>::from(hmac.finalize().into_bytes()));
        let mut tag = [0; TAG_LEN];
        for (byte, from) in tag.iter_mut().zip(output.iter()) {
            *byte = *from;
        }
        Tag::from_bytes(tag)
    }

    /// The keys in the order tag, seal, mac: for test vectors alone.
    #[doc(hidden)]
    #[must_use]
    pub fn expose_for_vectors(&self) -> [&[u8; 32]; 3] {
        [&self.0.tag, &self.0.seal, &self.0.mac]
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}

fn expand(hkdf: &Hkdf<Sha256>, label: &[u8], key: &mut [u8; 32]) {
    // RFC 5869, section 2.3: it fails beyond 255 blocks only, and this is one block.
    if hkdf.expand(label, key).is_err() {
        unreachable!("one block of HKDF output is always to be had");
    }
}

/// RFC 2104, section 2: a key shorter than the hash's block is padded with zeros to its 64 bytes.
pub(crate) fn keyed(key: &[u8; 32]) -> HmacSha256 {
    let mut block = Zeroizing::new([0; 64]);
    for (byte, from) in block.iter_mut().zip(key) {
        *byte = *from;
    }
    HmacSha256::new((&*block).into())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn a_secret_of_one_repeated_byte_is_refused() {
        for byte in [0, 1, 0xff] {
            assert!(Secret::new([byte; SECRET_LEN]).is_err());
        }
        let mut bytes = [7; SECRET_LEN];
        bytes[31] = 8;
        assert!(Secret::new(bytes).is_ok());
    }

    #[test]
    fn neither_a_secret_nor_a_key_shows_its_bytes() {
        let mut bytes = [0xa5; SECRET_LEN];
        bytes[0] = 0x5a;
        let secret = Secret::new(bytes).unwrap();
        let keys = ClientKeys::derive(&secret, &Realm::default());
        assert_eq!(format!("{secret:?} {keys:?}"), "Secret(..) ClientKeys(..)");
    }

    #[test]
    fn a_realm_is_at_most_64_printable_ascii_characters() {
        for good in ["", "plant 7/gate-2", &"x".repeat(64)] {
            assert_eq!(Realm::new(good).unwrap().as_str(), good);
        }
        for bad in ["é", "a\n", "a\0", &"x".repeat(65)] {
            assert_eq!(Realm::new(bad), Err(InvalidRealm), "{bad:?}");
        }
        assert_eq!(Realm::new("").unwrap(), Realm::default());
    }
}
