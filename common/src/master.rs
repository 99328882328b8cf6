//! Keys of clients derived from a master secret. PROTOCOL.md, "Derived keys".
//!
//! # Security considerations
//! - The salt begins as a realm's does and goes on with a zero byte, which no realm can hold: what is derived here
//!   can't come out as one of a client's own keys, even if one secret served as both.
//! - Whoever has the master secret has the key of every client, past and future.

use core::{fmt, num::NonZeroU32};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize as _;

use crate::{
    kept::Kept,
    keys::{SECRET_LEN, Secret},
};

const SALT: &[u8] = b"knock/1\0master";
const LABEL: &[u8] = b"client";

/// What clients' keys are derived from: RFC 5869's PRK of the master secret, which itself isn't kept.
#[derive(Clone)]
pub struct MasterKey(Kept<[u8; 32]>);

/// Why there is no key of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a client's name is 1 to 64 of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub struct InvalidName;

impl MasterKey {
    /// Longest name of a client in bytes.
    pub const NAME_MAX: usize = 64;

    /// The master key of a master secret.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let mut master = Self(Kept::empty());
        let (mut prk, _) = Hkdf::<Sha256>::extract(Some(SALT), secret.expose());
        master.0.copy_from_slice(&prk);
        prk.as_mut_slice().zeroize();
        master
    }

    /// The secret of a client by its name. The generation is 1 until a key has to be replaced.
    ///
    /// # Errors
    /// [`InvalidName`] for what no client can be called.
    pub fn secret(&self, name: &str, generation: NonZeroU32) -> Result<Secret, InvalidName> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts_well = name.bytes().next().is_some_and(alphanumeric);
        let goes_on_well = name.bytes().all(|byte| alphanumeric(byte) || b"._-".contains(&byte));
        if !starts_well || !goes_on_well || name.len() > Self::NAME_MAX {
            return Err(InvalidName);
        }
        let Ok(hkdf) = Hkdf::<Sha256>::from_prk(&*self.0) else {
            unreachable!("RFC 5869, section 2.3: a PRK has at least the hash's 32 bytes");
        };
        let mut bytes = [0; SECRET_LEN];
        let info = [LABEL, &generation.get().to_be_bytes(), name.as_bytes()];
        if hkdf.expand_multi_info(&info, &mut bytes).is_err() {
            unreachable!("one block of HKDF output is always to be had");
        }
        let secret = Secret::of(&bytes);
        bytes.zeroize();
        let Ok(secret) = secret else {
            unreachable!("32 equal bytes come out of HKDF once in 2^248 times");
        };
        Ok(secret)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}
