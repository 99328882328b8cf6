//! Keys as they are written: 32 random bytes in base64, in a profile or alone in a file.
//!
//! # Security considerations
//! - What was decoded is wiped; the secret itself wipes when it is dropped.
//! - The errors say what is wrong with a key and never show any of it.

use std::{ffi::OsStr, path::Path};

use common::{SECRET_LEN, Secret};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::{
    exit::Error,
    private_file::{PrivateFile, ReadError},
    unit,
};

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKey {
    /// Not base64, or without its padding.
    #[error(
        "the key isn't base64: write the 44 characters that `knockd client add` or `knockd client rotate` printed"
    )]
    NotBase64,
    /// Too short or too long.
    #[error(
        "the key is {0} bytes long and must be {SECRET_LEN}: write the 44 characters that `knockd client add` or `knockd client rotate` printed"
    )]
    Length(usize),
    /// Not random.
    #[error(
        "all bytes of the key are the same, so it isn't random: make one with `knockd client add` or `knockd client rotate`"
    )]
    Weak,
}

/// Reads a key from its base64.
pub(crate) fn parse(text: &str) -> Result<Secret, InvalidKey> {
    let len = BASE64.decode_len(text.len()).map_err(|_| InvalidKey::NotBase64)?;
    let mut bytes = Zeroizing::new(vec![0; len]);
    let len = BASE64.decode_mut(text.as_bytes(), &mut bytes).map_err(|_| InvalidKey::NotBase64)?;
    bytes.truncate(len);
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    if bytes.len() != secret.len() {
        return Err(InvalidKey::Length(bytes.len()));
    }
    secret.copy_from_slice(&bytes);
    Secret::new(*secret).map_err(|_| InvalidKey::Weak)
}

/// Reads a key from a file of its own, whose name came from `named_by` (a flag, a variable, a profile).
pub(crate) fn read(path: &Path, named_by: &str) -> Result<Secret, Error> {
    if is_key(path.as_os_str()) {
        return Err(Error::Config(format!(
            "{named_by} holds a key where the name of a file belongs: write the key to a file of mode 600, and that file's name there"
        )));
    }
    let shown = path.display();
    let file = PrivateFile::read(path).map_err(|error| match error {
        ReadError::Missing => Error::Config(format!(
            "{shown}: there is no such file, and {named_by} says that the key is in it: `knockd client add NAME` on the broker's host makes one{}",
            unit::hint(unit::SECRET)
        )),
        ReadError::Denied(error) => Error::Permission(format!(
            "{shown} can't be read: {error}: run knock as the user whom the file belongs to{}",
            unit::hint(unit::SECRET)
        )),
        ReadError::Other(error) => Error::Config(format!(
            "{shown} can't be read: {error}: name a file with the key in base64 in {named_by}"
        )),
    })?;
    file.require_private()?;
    let text = file.text().map_err(|wrong| located(&file, wrong.line(), &wrong))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains('\n') {
        return Err(Error::Config(format!(
            "{shown}:2: a key file has one line, the key in base64: delete this one"
        )));
    }
    parse(line).map_err(|error| located(&file, 1, &error))
}

fn located(file: &PrivateFile, line: usize, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("{}:{line}: {error}", file.path().display()))
}

/// Whether somebody wrote the key itself where the name of its file belongs; it must not be shown then.
fn is_key(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        !matches!(parse(name), Err(InvalidKey::NotBase64 | InvalidKey::Length(_)))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_key_is_32_random_bytes_in_padded_base64() {
        let secret = parse(KEY).unwrap();
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(secret.expose().as_slice(), bytes);
    }

    #[test]
    fn a_key_of_another_length_or_alphabet_or_of_one_byte_is_refused_and_never_shown() {
        let unpadded = KEY.trim_end_matches('=');
        let url_safe = BASE64.encode(&[0xfb; 32]).replace('+', "-");
        for (text, error) in [
            (String::new(), InvalidKey::Length(0)),
            (unpadded.to_owned(), InvalidKey::NotBase64),
            (url_safe, InvalidKey::NotBase64),
            (format!("{KEY} "), InvalidKey::NotBase64),
            ("correct horse battery staple".to_owned(), InvalidKey::NotBase64),
            (BASE64.encode(&[7; 31]), InvalidKey::Length(31)),
            (BASE64.encode(&[7; 33]), InvalidKey::Length(33)),
            (BASE64.encode(&[7; 32]), InvalidKey::Weak),
            (BASE64.encode(&[0; 32]), InvalidKey::Weak),
        ] {
            let result = parse(&text).err();
            assert_eq!(result, Some(error), "{text}");
            assert!(text.is_empty() || !error.to_string().contains(&text));
        }
    }

    fn read_text(text: &str) -> Result<Secret, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        read(&path, "--key-file")
    }

    #[test]
    fn a_key_file_may_end_with_one_line_break() {
        for end in ["", "\n", "\r\n"] {
            assert!(read_text(&format!("{KEY}{end}")).is_ok(), "{end:?}");
            assert!(read_text(&format!("\u{feff}{KEY}{end}")).is_ok(), "{end:?} from Windows");
        }
    }

    #[test]
    fn a_bad_key_file_is_named_with_its_line_and_its_text_is_not_shown() {
        for (text, line) in [
            (String::new(), "key:1: the key is 0 bytes"),
            (format!("{KEY}\n{KEY}\n"), "key:2: a key file has one line"),
            (format!("{KEY}\n\n"), "key:2: a key file has one line"),
            (format!("key = {KEY}"), "key:1: the key isn't base64"),
        ] {
            let error = read_text(&text).map(|_| ()).unwrap_err();
            assert_eq!(error.code().number(), 78);
            assert!(error.to_string().contains(line), "{error}");
            assert!(!error.to_string().contains(&KEY[..8]), "{error}");
        }
    }

    #[test]
    fn a_key_in_place_of_its_files_name_is_not_shown() {
        let error = read(Path::new(KEY), "--key-file").map(|_| ()).unwrap_err();
        assert_eq!(error.code().number(), 78);
        assert!(!error.to_string().contains(&KEY[..8]), "{error}");
    }
}
