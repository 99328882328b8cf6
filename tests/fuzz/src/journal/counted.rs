//! The file of counters: what was written is read back, and nobody's counter is ever behind.

use std::collections::BTreeMap;

use common::Tag;
use knockd::{
    gate::counters::Counter,
    journal::counted::{Condition, CountedFile, parse},
};

use super::{ACTS, WRITER, damage, disk::Disk};
use crate::input::Input;

/// Lengths in the file, in bytes.
pub(super) const HEADER_LEN: usize = 128;
pub(super) const PLACE_LEN: usize = 32;

/// Any content: no more counters than there are bytes for.
pub(super) fn read(content: &[u8]) {
    let found = parse(content);
    assert!(found.counters.len() * PLACE_LEN <= content.len());
    if let Condition::Damaged(damage) = found.condition {
        assert!(!damage.to_string().is_empty());
    }
}

/// A story of counters that rise, on a disk that can be full, each look at the file compared with them.
pub(super) fn write(input: &mut Input<'_>) {
    let mut disk = Disk::new(&[]);
    let put = |content: &[u8]| {
        disk = Disk::new(content);
        Ok::<_, ()>(disk.clone())
    };
    let mut file = CountedFile::create_with(WRITER, [], put).unwrap();
    let (mut known, mut tried) = (BTreeMap::new(), Vec::new());
    for _ in 0..ACTS {
        if input.is_empty() {
            break;
        }
        match input.below(4) {
            0 => disk.leave_room(match input.byte() {
                255 => usize::MAX,
                few => few.into(),
            }),
            _ => {
                let batch: Vec<(Tag, Counter)> = (0..=input.below(3))
                    .map(|_| (Tag::from_bytes([input.byte() % 4; 8]), counter(input)))
                    .collect();
                tried.extend(batch.clone());
                if file.write(&batch).is_ok() {
                    known.extend(batch);
                } else {
                    // What stands there now is one or the other.
                    for (key, _) in batch {
                        known.remove(&key);
                    }
                }
            }
        }
        let found = parse(&disk.content());
        let is_damaged = matches!(found.condition, Condition::Damaged(_));
        let found: BTreeMap<_, _> = found.counters.into_iter().collect();
        // A torn header is damage, which is told; what it counts is still there, once it is written again.
        assert!(
            known.iter().all(|(key, counter)| found.get(key) == Some(counter))
                || (is_damaged && disk.has_torn_start())
        );
    }
    let mut content = disk.content();
    damage(&mut content, input);
    assert!(parse(&content).counters.iter().all(|counter| tried.contains(counter)));
}

fn counter(input: &mut Input<'_>) -> Counter {
    match input.below(5) {
        0 => Counter::Lost,
        _ => Counter::Last(input.number()),
    }
}
