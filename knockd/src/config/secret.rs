//! A client's key as text: 32 random bytes in base64 (RFC 4648, section 4).
//!
//! # Security considerations
//! - What is wrong with a key is told by its length and form alone; no character of it is shown.
//! - Decoded bytes are wiped on every way out.

use common::{SECRET_LEN, Secret};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::source::Wrong;

/// Length of a key in base64.
const TEXT_LEN: usize = 44;

const HOW_TO_MAKE_ONE: &str =
    "write 44 characters ending in '=': `knockd client add NAME --service SERVICE` makes a key";

/// The secret that a text outside of the configuration holds.
///
/// # Errors
/// What is wrong with it, as it goes on after its name; no character of it.
pub(crate) fn of_text(text: &str) -> Result<Secret, String> {
    parse(text).map_err(|wrong| wrong.what)
}

/// The secret that this text holds.
pub(super) fn parse(text: &str) -> Result<Secret, Wrong> {
    let wrong = |what: &str| Wrong::with(what, HOW_TO_MAKE_ONE);
    let is_standard = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if text.is_empty() {
        return Err(wrong("is empty"));
    }
    if text.contains(['-', '_'])
        && text.bytes().all(|byte| is_standard(byte) || b"-_".contains(&byte))
    {
        return Err(wrong("is in the URL-safe form of base64, with '-' for '+' and '_' for '/'"));
    }
    if !text.bytes().all(is_standard) {
        return Err(wrong("is not base64: it has a character that base64 doesn't know"));
    }
    if text.len() == TEXT_LEN - 1 && !text.contains('=') {
        return Err(wrong("lacks the '=' at its end"));
    }
    if text.len() != TEXT_LEN {
        let how = if text.len() < TEXT_LEN { "short" } else { "long" };
        return Err(wrong(&format!("is too {how}: it has {} characters", text.len())));
    }
    // 44 characters are up to 33 bytes.
    let mut decoded = Zeroizing::new([0; TEXT_LEN / 4 * 3]);
    let length = BASE64
        .decode_mut(text.as_bytes(), decoded.as_mut_slice())
        .map_err(|_| wrong("is not base64 of 32 bytes"))?;
    if length != SECRET_LEN {
        return Err(wrong(&format!("is too {}: it is {length} bytes", short_or_long(length))));
    }
    let bytes = decoded.first_chunk().ok_or_else(|| wrong("is not base64 of 32 bytes"))?;
    Secret::of(bytes).map_err(|_| wrong("is one byte 32 times, which isn't random"))
}

const fn short_or_long(length: usize) -> &'static str {
    if length < SECRET_LEN { "short" } else { "long" }
}

/// A secret as text, for the one place that writes it.
pub(crate) fn to_text(secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    BASE64.encode_append(secret.expose(), &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn a_key_reads_back_as_it_was_written() {
        assert_eq!(*to_text(&parse(KEY).unwrap()), KEY);
    }

    #[test]
    fn each_way_to_be_wrong_has_a_message_of_its_own() {
        for (text, what) in [
            (String::new(), "is empty"),
            (KEY[..40].to_owned(), "is too short: it has 40 characters"),
            (format!("{KEY}AAAA"), "is too long: it has 48 characters"),
            (KEY[..43].to_owned(), "lacks the '=' at its end"),
            (format!("{}Z=", &KEY[..42]), "is not base64 of 32 bytes"),
            (format!("{}A==", &KEY[..41]), "is too short: it is 31 bytes"),
            (format!("{}A", &KEY[..43]), "is too long: it is 33 bytes"),
            (format!("{}=", "A".repeat(43)), "is one byte 32 times"),
            (format!("-{}", &KEY[1..]), "is in the URL-safe form"),
            (format!(" {}", &KEY[1..]), "is not base64: it has a character"),
            (format!("={}", &KEY[1..]), "is not base64 of 32 bytes"),
            ("correct horse battery staple".to_owned(), "is not base64: it has a character"),
        ] {
            let wrong = parse(&text).unwrap_err();
            assert!(wrong.what.starts_with(what), "{what}: {}", wrong.what);
            assert!(wrong.instead.unwrap().contains("knockd client add"));
        }
    }
}
