//! The numbers that a device without a clock gives its packets: taken from its file, some of them ahead. PROTOCOL.md,
//! step 6.
//!
//! Whoever sends packets for months has [`AHEAD`] numbers written down as used before they are, and hands them out from
//! memory: the storage is written once for all of these, and where it fails, or turns read-only, the device still gets
//! in for as long as they last. What a crash leaves over is skipped: the server takes any number above the last.
//!
//! # Security considerations
//! No number is ever given out twice: those ahead are this process's alone, for they are in the file. Where the file
//! holds a greater number than this process put there, another run has taken some, or an admin has set it: what is in
//! memory is behind then, and dropped.

use std::fs::File;

use common::{Day, Timestamp};

use crate::{counter::CounterFile, exit::Error, packet::Stamp};

/// How many numbers a run takes at once that goes on and on.
pub(crate) const AHEAD: u64 = 64;

/// A device's numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    file: CounterFile,
    /// How many are taken ahead: 0 for a run that is soon over.
    ahead: u64,
    /// The last one given out.
    used: u64,
    /// The last one that is this process's: what the file holds.
    reserved: u64,
    /// Why none could be taken the last time that it was tried.
    trouble: Option<String>,
}

/// Numbers for some packets, and nobody else sends any until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    next: u64,
    left: u64,
    _lock: Option<File>,
}

impl Numbers {
    /// The numbers that this file counts; nothing is opened.
    pub(crate) const fn new(file: CounterFile, ahead: u64) -> Self {
        Self { file, ahead, used: 0, reserved: 0, trouble: None }
    }

    /// The file that they are counted in.
    pub(crate) const fn file(&self) -> &CounterFile {
        &self.file
    }

    /// Takes the next `count` numbers: they are used up from here on, whatever happens.
    ///
    /// # Errors
    /// If the file can't be read or written, and there are too few numbers ahead.
    pub(crate) fn take(&mut self, count: u64) -> Result<Taken, Error> {
        let (lock, kept) = match self.file.lock().and_then(|lock| Ok((lock, self.file.read()?))) {
            Ok((lock, last)) => {
                if last > self.reserved {
                    (self.used, self.reserved) = (last, last);
                }
                (Some(lock), Ok(()))
            }
            Err(error) => (None, Err(error)),
        };
        let is_low = self.left() < count.max(self.ahead / 2);
        let kept = kept.and_then(|()| if is_low { self.reserve(count) } else { Ok(()) });
        self.trouble = match kept {
            Ok(()) => None,
            Err(error) if self.left() < count => return Err(error),
            Err(error) => Some(format!(
                "{error}. Going on with numbers that were taken ahead, enough for less than {} packets: mend it before they are used up",
                3 * AHEAD / 2
            )),
        };
        let next = self.used.saturating_add(1);
        self.used = self.used.saturating_add(count);
        Ok(Taken { next, left: count, _lock: lock })
    }

    /// The numbers that [`Self::take`] would give; they stay free.
    pub(crate) fn peek(&self, count: u64) -> Result<Taken, Error> {
        Ok(Taken { next: self.file.read()?.saturating_add(1), left: count, _lock: None })
    }

    /// What is wrong with the file, while there are numbers all the same.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Goes on with the numbers that another one has ahead, of the same file.
    pub(crate) fn go_on_from(&mut self, other: &Self) {
        if self.file == other.file {
            (self.used, self.reserved) = (other.used, other.reserved);
        }
    }

    const fn left(&self) -> u64 {
        self.reserved.saturating_sub(self.used)
    }

    fn reserve(&mut self, count: u64) -> Result<(), Error> {
        let needed = self.reserved.checked_add(count).ok_or_else(|| self.file.used_up())?;
        let reserved = self.reserved.saturating_add(self.ahead).max(needed);
        self.file.write(reserved)?;
        self.reserved = reserved;
        Ok(())
    }
}

impl Taken {
    /// The next of them; `None` behind the last.
    pub(crate) fn next(&mut self) -> Option<Stamp> {
        self.left = self.left.checked_sub(1)?;
        let timestamp = Timestamp::from_millis(self.next);
        self.next = self.next.saturating_add(1);
        Some(Stamp { timestamp, day: Day::COUNTER })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file() -> (tempfile::TempDir, CounterFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = CounterFile::new(folder.path().join("state/broker.counter"));
        (folder, file)
    }

    fn all(mut taken: Taken) -> Vec<u64> {
        std::iter::from_fn(|| taken.next()).map(|stamp| stamp.timestamp.as_millis()).collect()
    }

    fn once(file: &CounterFile) -> Numbers {
        Numbers::new(file.clone(), 0)
    }

    fn on_disk(file: &CounterFile) -> String {
        fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn numbers_are_on_the_disk_before_anybody_has_them_and_none_comes_twice() {
        let (_folder, file) = file();
        file.set(41).unwrap();
        let taken = once(&file).take(2).unwrap();
        assert_eq!(on_disk(&file), "43\n");
        assert_eq!(all(taken), [42, 43]);
        assert_eq!(all(once(&file).peek(1).unwrap()), [44]);
        assert_eq!(all(once(&file).take(1).unwrap()), [44]);
    }

    #[test]
    fn runs_at_once_take_turns_and_never_the_same_number() {
        let (_folder, file) = file();
        file.set(0).unwrap();
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let take =
                || (0..20).flat_map(|_| all(once(&file).take(3).unwrap())).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert_eq!(taken, (1..=240).collect::<Vec<_>>());
    }

    #[test]
    fn those_taken_ahead_cost_one_write_and_a_crash_skips_what_was_left() {
        let (_folder, file) = file();
        file.set(0).unwrap();
        let mut numbers = Numbers::new(file.clone(), AHEAD);
        let mut writes = std::collections::BTreeSet::new();
        for expected in 1..=640 {
            assert_eq!(all(numbers.take(1).unwrap()), [expected]);
            writes.insert(on_disk(&file));
            assert!(numbers.left() <= 3 * AHEAD / 2);
        }
        assert!(writes.len() <= 11, "{writes:?}");
        // Whatever comes after it begins above all that it may have used.
        drop(numbers);
        let next = all(once(&file).take(1).unwrap());
        assert!(next[0] > 640, "{next:?}");
    }

    /// A folder in the file's place: nobody can read or write it, root included.
    #[test]
    fn where_the_file_fails_the_numbers_ahead_go_on_and_say_so_until_they_are_used_up() {
        let (_folder, file) = file();
        file.set(100).unwrap();
        let mut numbers = Numbers::new(file.clone(), AHEAD);
        assert_eq!(all(numbers.take(1).unwrap()), [101]);
        assert_eq!(numbers.trouble(), None);
        fs::remove_file(file.path()).unwrap();
        fs::create_dir(file.path()).unwrap();
        for expected in 102..=164 {
            assert_eq!(all(numbers.take(1).unwrap()), [expected]);
            assert!(numbers.trouble().unwrap().contains("taken ahead"));
        }
        assert!(numbers.take(1).is_err());
        fs::remove_dir(file.path()).unwrap();
        fs::write(file.path(), "164\n").unwrap();
        assert_eq!(all(numbers.take(1).unwrap()), [165]);
        assert_eq!(numbers.trouble(), None);
    }

    #[test]
    fn when_another_run_has_taken_some_those_ahead_are_dropped_for_they_are_behind() {
        let (_folder, file) = file();
        file.set(0).unwrap();
        let mut keeper = Numbers::new(file.clone(), AHEAD);
        assert_eq!(all(keeper.take(2).unwrap()), [1, 2]);
        assert_eq!(all(once(&file).take(1).unwrap()), [65]);
        assert_eq!(all(keeper.take(1).unwrap()), [66]);
        file.set(1_000).unwrap();
        assert_eq!(all(keeper.take(1).unwrap()), [1_001]);
    }

    #[test]
    fn a_plan_that_is_read_again_goes_on_where_the_one_before_was() {
        let (_folder, file) = file();
        file.set(0).unwrap();
        let mut before = Numbers::new(file.clone(), AHEAD);
        assert_eq!(all(before.take(1).unwrap()), [1]);
        let mut after = Numbers::new(file, AHEAD);
        after.go_on_from(&before);
        assert_eq!(all(after.take(1).unwrap()), [2]);
        let mut other = Numbers::new(CounterFile::new("elsewhere".into()), AHEAD);
        other.go_on_from(&before);
        assert_eq!(other.left(), 0);
    }

    #[test]
    fn they_end_at_the_last_number_there_is() {
        let (_folder, file) = file();
        file.set(u64::MAX - 1).unwrap();
        assert_eq!(all(Numbers::new(file.clone(), AHEAD).take(1).unwrap()), [u64::MAX]);
        assert_eq!(once(&file).take(1).unwrap_err().code().number(), 78);
    }
}
