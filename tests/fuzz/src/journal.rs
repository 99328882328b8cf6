//! The state folder's files: any bytes, and what the daemon's own code wrote, torn and damaged.

mod banned;
mod counted;
mod disk;
mod held;
mod seen;

use knockd::journal::{BootId, DaemonId, Writer};
use sha2::{Digest as _, Sha256};

use crate::input::Input;

/// The most things that happen in one story: it bounds the time that one input takes.
const ACTS: usize = 10;

const BOOT: BootId = BootId::from_bytes([1; 16]);
const WRITER: Writer = Writer { boot: BOOT, daemon: DaemonId::from_random([2; 16]) };

/// The first byte says of which file, and whether the rest is its content or a story of how it came about.
pub fn journal(data: &[u8]) {
    if let [COUNTED, rest @ ..] = data {
        let mut input = Input::new(rest);
        return match input.below(3) {
            0 => counted::read(input.rest()),
            1 => counted::write(&mut input),
            _ => counted::read(&with_checksums(
                input.rest(),
                counted::HEADER_LEN,
                counted::PLACE_LEN,
            )),
        };
    }
    let mut input = Input::new(data);
    match input.below(9) {
        0 => seen::read(input.rest()),
        1 => held::read(input.rest()),
        2 => seen::write(&mut input),
        3 => held::write(&mut input),
        4 => seen::read(&with_checksums(input.rest(), seen::HEADER_LEN, seen::RECORD_LEN)),
        5 => held::read(&with_checksums(input.rest(), held::HEADER_LEN, held::PLACE_LEN)),
        6 => banned::read(input.rest()),
        7 => banned::write(&mut input),
        _ => banned::read(&with_checksums(input.rest(), held::HEADER_LEN, held::PLACE_LEN)),
    }
}

/// The first byte of an input that is about the file of counters.
const COUNTED: u8 = 0xff;

/// A content whose checksums all hold, so that what is behind them is reached.
fn with_checksums(content: &[u8], header: usize, record: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    let header = header.min(content.len());
    let (first, rest) = content.split_at_mut(header);
    for part in [first].into_iter().chain(rest.chunks_mut(record)) {
        if let Some((covered, end)) = part.split_last_chunk_mut::<8>() {
            end.copy_from_slice(&Sha256::digest(covered)[..8]);
        }
    }
    content
}

/// Damages a file's content, as no daemon would.
fn damage(content: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..4 {
        if input.is_empty() || content.is_empty() {
            return;
        }
        let at = usize::from(input.number::<u16>()) % content.len();
        match input.below(4) {
            0 => content[at] ^= input.byte(),
            1 => content.truncate(at),
            2 => content.extend_from_slice(input.bytes(64)),
            _ => {
                let from = usize::from(input.number::<u16>()) % content.len();
                let length = usize::from(input.byte()).min(content.len() - at.max(from));
                content.copy_within(from..from + length, at);
            }
        }
    }
}
