//! The file of bans: who is banned is read back, nobody who never was, and nobody for longer than it was meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::Timestamp;
use knockd::{
    gate::{
        bans::{Ban, BanKind},
        clock::{Now, Uptime},
        source::Source,
    },
    journal::{
        BootId, Writer,
        banned::{BannedFile, Found, parse},
    },
};

use super::{ACTS, BOOT, WRITER, damage, disk::Disk, held::PLACE_LEN};
use crate::input::Input;

const START: Now =
    Now { utc: Timestamp::from_millis(1_790_000_000_123), uptime: Uptime::from_millis(1_000_000) };

/// Any content: no more bans than there are bytes for, all of them yet to end, and they can be written again.
pub(super) fn read(content: &[u8]) {
    let now = START;
    for boot in [BOOT, OTHER_BOOT] {
        let Found::Bans(bans) = parse(content, boot, now) else { return };
        assert!(bans.len() * PLACE_LEN <= content.len());
        assert!(bans.iter().all(|(_, ban)| now.uptime < ban.until));
        let (_, disk) =
            create(Writer { boot, ..WRITER }, bans.iter().map(|(source, ban)| (source, ban)), now);
        assert_eq!(parse(&disk.content(), boot, now), Found::Bans(bans));
    }
}

/// A story of bans made and lifted, of clocks and of reboots, each look at the file compared with who is banned.
pub(super) fn write(input: &mut Input<'_>) {
    let mut story = Story::begin();
    for _ in 0..ACTS {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..3 => story.ban(input),
            3 => story.lift(input),
            4 => story.let_time_pass(input),
            5 => story.set_clock(input),
            6 => story.disk.leave_room(match input.byte() {
                255 => usize::MAX,
                few => few.into(),
            }),
            _ => story.restart(*input.one_of(&[After::SameBoot, After::Reboot])),
        }
        story.assert_are_banned(After::SameBoot);
    }
    let mut content = story.disk.content();
    damage(&mut content, input);
    if let Found::Bans(found) = parse(&content, story.writer.boot, story.now) {
        assert!(found.iter().all(|ban| story.tried.contains(ban)), "{found:?}");
    }
}

const OTHER_BOOT: BootId = BootId::from_bytes([9; 16]);

/// What a file is read after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    SameBoot,
    Reboot,
}

/// Sources that a story bans.
const SOURCES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "2001:db8::/64", "::/64"];

fn create<'a>(
    writer: Writer,
    bans: impl IntoIterator<Item = (&'a Source, &'a Ban)>,
    now: Now,
) -> (BannedFile<Disk>, Disk) {
    let mut disk = None;
    let put = |content: &[u8]| Ok::<_, ()>(disk.insert(Disk::new(content)).clone());
    let file = BannedFile::create_with(writer, bans, now, put);
    (file.expect("this disk takes all"), disk.expect("the content was put there"))
}

struct Story {
    file: BannedFile<Disk>,
    disk: Disk,
    writer: Writer,
    now: Now,
    /// Who is banned, and until when by the clock on the wall, as it was when that was written.
    banned: BTreeMap<Source, (Ban, Timestamp)>,
    /// Sources whose last write the disk did not take whole.
    torn: BTreeSet<Source>,
    /// Every ban that was ever to be written.
    tried: Vec<(Source, Ban)>,
}

impl Story {
    fn begin() -> Self {
        let (file, disk) = create(WRITER, [], START);
        let (banned, torn, tried) = Default::default();
        Self { file, disk, writer: WRITER, now: START, banned, torn, tried }
    }

    fn ban(&mut self, input: &mut Input<'_>) {
        let source = source(input);
        let length = Duration::from_millis(match input.below(3) {
            0 => input.byte().into(),
            1 => input.number::<u32>().into(),
            _ => input.number(),
        });
        let ban = Ban {
            kind: *input.one_of(&[BanKind::Failures, BanKind::Admin]),
            until: self.now.uptime + length,
            length,
            reason: "x".repeat(input.below(65)).parse().expect("it is no longer than can be"),
        };
        self.tried.push((source, ban.clone()));
        if self.file.put(source, Some(&ban), self.now).is_ok() {
            self.banned.insert(source, (ban.clone(), self.now.utc_of(ban.until)));
            self.torn.remove(&source);
        } else {
            self.torn.insert(source);
        }
    }

    fn lift(&mut self, input: &mut Input<'_>) {
        let source = source(input);
        if self.file.put(source, None, self.now).is_err() {
            self.torn.insert(source);
        } else if self.banned.remove(&source).is_some() {
            self.torn.remove(&source);
        }
    }

    /// Both clocks go on alike.
    fn let_time_pass(&mut self, input: &mut Input<'_>) {
        let time = Duration::from_millis(input.number::<u32>().into());
        let utc = self.now.utc.as_millis().saturating_add(time.as_millis() as u64);
        self.now = Now { utc: Timestamp::from_millis(utc), uptime: self.now.uptime + time };
    }

    fn set_clock(&mut self, input: &mut Input<'_>) {
        let utc = match input.below(3) {
            0 => self.now.utc.as_millis().saturating_add_signed(input.number::<i32>().into()),
            1 => input.number(),
            _ => START.utc.as_millis(),
        };
        self.now.utc = Timestamp::from_millis(utc);
    }

    /// The daemon takes up what it finds, and after a reboot by the clock on the wall.
    fn restart(&mut self, after: After) {
        if after == After::Reboot {
            self.writer.boot = match self.writer.boot {
                BOOT => OTHER_BOOT,
                _ => BOOT,
            };
            self.now.uptime = Uptime::from_millis(1_000);
        }
        let found = self.assert_are_banned(after);
        (self.file, self.disk) =
            create(self.writer, found.iter().map(|(source, ban)| (source, ban)), self.now);
        self.tried.extend(found.clone());
        let written = |(source, ban): (Source, Ban)| {
            let until = self.now.utc_of(ban.until);
            (source, (ban, until))
        };
        self.banned = found.into_iter().map(written).collect();
        self.torn.clear();
    }

    /// The bans that are read back: of each source whose last write was whole the one that was made last, until
    /// when it was made, and after a reboot for no longer than it was made for.
    fn assert_are_banned(&self, after: After) -> Vec<(Source, Ban)> {
        let Found::Bans(found) = parse(&self.disk.content(), self.writer.boot, self.now) else {
            panic!("the header is never written again");
        };
        let sources: BTreeSet<_> = found.iter().map(|(source, _)| *source).collect();
        assert_eq!(sources.len(), found.len(), "one stands there twice");
        for (source, ban) in &found {
            let left = ban.until.since(self.now.uptime);
            assert!(!left.is_zero() && left <= ban.length, "{source}: {ban:?}");
        }
        let is_sure = |source: &Source| !self.torn.contains(source);
        let holds = |(source, (ban, until_utc)): (&Source, &(Ban, Timestamp))| {
            let left = match after {
                After::SameBoot => ban.until.since(self.now.uptime),
                After::Reboot => {
                    let left = until_utc.as_millis().saturating_sub(self.now.utc.as_millis());
                    ban.length.min(Duration::from_millis(left))
                }
            };
            let until = self.now.uptime + left;
            (is_sure(source) && !left.is_zero()).then(|| (*source, Ban { until, ..ban.clone() }))
        };
        let expected: BTreeMap<_, _> = self.banned.iter().filter_map(holds).collect();
        let sure = found.iter().filter(|(source, _)| is_sure(source)).cloned();
        assert_eq!(sure.collect::<BTreeMap<_, _>>(), expected);
        found
    }
}

fn source(input: &mut Input<'_>) -> Source {
    input.one_of(&SOURCES).parse().expect("it is one")
}
