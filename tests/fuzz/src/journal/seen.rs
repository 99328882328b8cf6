//! The file of accepted packets: none that was accepted gets lost without the file's saying so.

use common::{Mac, Timestamp};
use knockd::{
    gate::replay::Floor,
    journal::seen::{Condition, Found, Layout, NameHash, Record, SeenFile, Span, parse},
};

use super::{ACTS, BOOT, WRITER, damage, disk::Disk};
use crate::input::Input;

/// Lengths in the file, in bytes.
pub(super) const HEADER_LEN: usize = 128;
pub(super) const RECORD_LEN: usize = 64;

/// Any content: no more packets than there are bytes for, and intact only if all are there.
pub(super) fn read(content: &[u8]) {
    let found = parse(content, BOOT);
    assert!(found.packets.len() * RECORD_LEN <= content.len());
    if let Condition::Damaged(_) = found.condition {
        return;
    }
    // Whatever is not damaged can be written again, and reads back as it was.
    let next = found.packets.len() as u64;
    let span = Span { oldest: 0, next, floor: found.floor, floor_utc: found.floor_utc };
    let file = Story::create(u32::MAX, span, &found.packets);
    let again = parse(&file.1.content(), BOOT);
    let layout = Some(Layout::V2);
    assert_eq!(again, Found { condition: Condition::Intact, ceiling: None, layout, ..found });
}

/// A story of appends, full disks and restarts, each look at the file compared with what was written.
pub(super) fn write(input: &mut Input<'_>) {
    let mut story = Story::begin(1 + input.below(8));
    for _ in 0..ACTS {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..5 => story.append(input),
            5 => story.disk.leave_room(usize::from(input.number::<u16>()) % 1024),
            6 => story.disk.leave_room(usize::MAX),
            _ => story.restart(),
        }
        let found = parse(&story.disk.content(), BOOT);
        story.assert_nothing_made_up(&found);
        if story.is_clean {
            assert_eq!(found.condition, Condition::Intact);
            assert_eq!(found.packets, story.remembered());
            assert_eq!(found.floor, story.span.floor);
        } else {
            // A torn record is no damage: it was never acted on. A torn header is.
            assert!(found.condition == Condition::Intact || story.disk.has_torn_start());
            story.assert_nothing_lost(&found);
        }
    }
    let mut content = story.disk.content();
    damage(&mut content, input);
    let found = parse(&content, BOOT);
    story.assert_nothing_made_up(&found);
    story.assert_nothing_lost(&found);
}

struct Story {
    file: SeenFile<Disk>,
    disk: Disk,
    capacity: usize,
    /// Every packet that was to be written; those that were are `accepted`.
    tried: Vec<Record>,
    accepted: Vec<Record>,
    /// As the gate's memory has it: which of `accepted` it still knows.
    span: Span,
    /// Whether the last write came to its end.
    is_clean: bool,
}

impl Story {
    fn begin(capacity: usize) -> Self {
        let span = Span { oldest: 0, next: 0, floor: Floor::default(), floor_utc: None };
        let (file, disk) = Self::create(capacity as u32, span, &[]);
        let (tried, accepted) = (Vec::new(), Vec::new());
        Self { file, disk, capacity, tried, accepted, span, is_clean: true }
    }

    fn create(capacity: u32, span: Span, packets: &[Record]) -> (SeenFile<Disk>, Disk) {
        let mut disk = None;
        let put = |content: &[u8]| Ok::<_, ()>(disk.insert(Disk::new(content)).clone());
        let packets = packets.iter().copied();
        let file = SeenFile::create_with(WRITER, capacity, span, None, packets, put);
        (file.expect("this disk takes all"), disk.expect("the content was put there"))
    }

    /// The packets that the gate's memory knows.
    fn remembered(&self) -> &[Record] {
        let known = usize::try_from(self.span.next - self.span.oldest).expect("it is small");
        &self.accepted[self.accepted.len() - known..]
    }

    /// Some are forgotten, and some more accepted, if they can be written.
    fn append(&mut self, input: &mut Input<'_>) {
        let forget = input.below(self.remembered().len() + 1);
        let forgotten = self.remembered()[..forget].iter().map(|record| record.timestamp).max();
        self.span.oldest += forget as u64;
        self.span.floor.forgotten = self.span.floor.forgotten.max(forgotten);
        let count = input.below(self.capacity - self.remembered().len() + 1);
        let batch: Vec<Record> = (0..count).map(|_| self.record(input)).collect();
        let span = Span { next: self.span.next + count as u64, ..self.span };
        self.tried.extend_from_slice(&batch);
        self.is_clean = self.file.append(&batch, span).is_ok();
        if self.is_clean {
            self.accepted.extend_from_slice(&batch);
            self.span = span;
        }
    }

    fn record(&self, input: &mut Input<'_>) -> Record {
        let mut mac = [0; 32];
        mac[..8].copy_from_slice(&(self.tried.len() as u64).to_be_bytes());
        mac[8] = input.byte();
        Record {
            timestamp: Timestamp::from_millis(input.number::<u16>().into()),
            mac: Mac::from_bytes(mac),
            client: NameHash::of("press-17"),
        }
    }

    /// The daemon starts again, if the file is whole; else it would accept nothing of before.
    fn restart(&mut self) {
        let found = parse(&self.disk.content(), BOOT);
        if found.condition != Condition::Intact {
            return;
        }
        let next = found.packets.len() as u64;
        self.span = Span { oldest: 0, next, floor: found.floor, floor_utc: found.floor_utc };
        // A batch that the disk took whole and the daemon was killed over counts as accepted from here on.
        self.accepted = [&self.accepted[..], &found.packets].concat();
        (self.file, self.disk) = Self::create(self.capacity as u32, self.span, &found.packets);
        self.is_clean = true;
    }

    /// Nothing is read that was not to be written.
    fn assert_nothing_made_up(&self, found: &Found) {
        assert!(found.packets.iter().all(|packet| self.tried.contains(packet)), "{found:?}");
    }

    /// A file that passes for intact knows every accepted packet, or lets none as old in again.
    fn assert_nothing_lost(&self, found: &Found) {
        if found.condition != Condition::Intact {
            return;
        }
        for packet in &self.accepted {
            let is_stale = Some(packet.timestamp) <= found.floor.forgotten;
            assert!(is_stale || found.packets.contains(packet), "lost: {packet:?} of {found:?}");
        }
    }
}
