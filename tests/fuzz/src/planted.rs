//! Keys in a text that is fuzzed: the input says where they stand, and never holds them itself.
//!
//! So the corpus has no keys in it, the fuzzer can't make a known part of one look like something else, and
//! a message that shows eight characters of one has leaked it.

use std::{collections::HashSet, sync::LazyLock};

/// Two keys of 32 random bytes, in base64.
const KEYS: [&str; 2] = [
    "q5HgWOIVjq3dmXUBTtBVbHdt8Zc14yUk0lM9DMX7RLw=",
    "Yw2S0sIVn+PfJUzGm1eVhKQNxAz6cZFvTDgoR9iBq4M=",
];

/// Shortest part of a key that would be a leak.
const PART: usize = 8;

static PARTS: LazyLock<HashSet<&'static [u8]>> =
    LazyLock::new(|| KEYS.iter().flat_map(|key| key.as_bytes().windows(PART)).collect());

/// A text with keys where the input has the bytes 1 to 4: either key whole, and the halves of the first.
/// (No text of TOML has these bytes in it.)
pub(crate) fn with_keys(data: &[u8]) -> Vec<u8> {
    let (front, back) = KEYS[0].split_at(KEYS[0].len() / 2);
    let mut text = Vec::with_capacity(data.len() + KEYS[0].len());
    for byte in data {
        match byte {
            1 => text.extend_from_slice(KEYS[0].as_bytes()),
            2 => text.extend_from_slice(KEYS[1].as_bytes()),
            3 => text.extend_from_slice(front.as_bytes()),
            4 => text.extend_from_slice(back.as_bytes()),
            other => text.push(*other),
        }
    }
    text
}

/// Panics if a part of a key is in a message.
pub(crate) fn assert_silent(said: &str) {
    let leaks = said.as_bytes().windows(PART).any(|part| PARTS.contains(part));
    assert!(!leaks, "a part of a key is shown: {said}");
}

/// How many lines a text has, counting an empty one behind its last line break.
pub(crate) fn lines(text: &[u8]) -> usize {
    1 + text.iter().filter(|byte| **byte == b'\n').count()
}
