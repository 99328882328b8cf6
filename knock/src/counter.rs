//! The number of the last packet, which a device without a clock keeps in a file. PROTOCOL.md, step 6.
//!
//! # Security considerations
//! - A number is on the disk before a packet carries it: after a loss of power none comes twice. One that was written
//!   and not sent is left out, which costs nothing.
//! - Two runs at once take turns, from the number to the sending, so that packets leave in the order of their numbers:
//!   a smaller one behind a greater one is refused.
//! - What isn't a number is never taken for one, and a file that is gone is not begun anew: packets with numbers that
//!   were used would be refused in silence. The admin has the daemon set the counter anew.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Day, Timestamp};

use crate::{exit::Error, packet::Stamp};

/// How long another run may have the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it is free.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest text of a number, with its line break.
const TEXT_MAX: u64 = 21;

/// The file with the number of the last packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CounterFile(PathBuf);

/// Numbers that no other packet has, and nobody else takes any until this is dropped.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u64,
    left: u64,
    _lock: Option<File>,
}

impl CounterFile {
    /// The file at this path; nothing is opened.
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Takes the next `count` numbers: they are used up from here on, whatever happens.
    pub(crate) fn take(&self, count: u64) -> Result<Numbers, Error> {
        let lock = self.lock()?;
        let last = self.read()?;
        let end = last.checked_add(count).ok_or_else(|| {
            Error::Config(format!(
                "{}: there is no number left for another packet: give the device a new key",
                self.0.display()
            ))
        })?;
        self.write(end)?;
        Ok(Numbers { next: last + 1, left: count, _lock: Some(lock) })
    }

    /// The numbers that [`Self::take`] would give; they stay free.
    pub(crate) fn peek(&self, count: u64) -> Result<Numbers, Error> {
        Ok(Numbers { next: self.read()?.saturating_add(1), left: count, _lock: None })
    }

    /// Begins the file, or sets it to a greater number; whether it wasn't there already.
    pub(crate) fn set(&self, number: u64) -> Result<Change, Error> {
        if let Some(folder) = self.folder() {
            // Others may know how many packets went; only the owner may change it.
            let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(|error| self.failed("made", &error))?;
        }
        let _lock = self.lock()?;
        // What can't be read is no number that could be kept.
        match self.read() {
            Ok(last) if last == number => return Ok(Change::None),
            Ok(last) if last > number => {
                return Err(Error::Usage(format!(
                    "{} is at {last} already, and packets with smaller numbers are refused: delete it first if the device has a new key",
                    self.0.display()
                )));
            }
            _ => self.write(number)?,
        }
        Ok(Change::Done)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn lock(&self) -> Result<File, Error> {
        let mut name = OsString::from(&self.0);
        name.push(".lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&name);
        let lock = lock.map_err(|error| match error.kind() {
            // Not even its folder is there.
            io::ErrorKind::NotFound => self.lost("isn't there"),
            _ => self.failed("locked", &error),
        })?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::System(format!(
                        "{}: another knock has had it for {PATIENCE:?}: see what hangs there (fuser {}.lock)",
                        self.0.display(),
                        self.0.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(self.failed("locked", &error)),
            }
        }
    }

    fn read(&self) -> Result<u64, Error> {
        let mut text = String::new();
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.0);
        match file.and_then(|file| file.take(TEXT_MAX + 1).read_to_string(&mut text)) {
            Ok(_) => parse(&text).ok_or_else(|| self.lost("doesn't hold a number")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.lost("isn't there")),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(self.lost("doesn't hold a number"))
            }
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    /// Puts a whole new file in the old one's place, for good.
    fn write(&self, number: u64) -> Result<(), Error> {
        let mut fresh = OsString::from(&self.0);
        fresh.push(".new");
        let put = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(format!("{number}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.0)?;
            File::open(self.folder().unwrap_or(Path::new(".")))?.sync_all()
        };
        put().map_err(|error| self.failed("written", &error))
    }

    /// The folder that it is in, where its name says so.
    fn folder(&self) -> Option<&Path> {
        self.0.parent().filter(|folder| !folder.as_os_str().is_empty())
    }

    fn lost(&self, what: &str) -> Error {
        Error::Config(format!(
            "the counter {} {what}: if it was lost, `knockd client resync NAME` on the broker's host says from where on this device is to count; on a device with a new key, begin with `knock --set-counter 0`",
            self.0.display()
        ))
    }

    fn failed(&self, done: &str, error: &io::Error) -> Error {
        let text =
            format!("nothing was sent: the counter {} can't be {done}: {error}", self.0.display());
        if error.kind() == io::ErrorKind::PermissionDenied {
            Error::Permission(format!("{text}: run knock as the user whom it belongs to"))
        } else {
            Error::System(text)
        }
    }
}

/// Whether anything had to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Yes.
    Done,
    /// It was so already.
    None,
}

impl Numbers {
    /// The next of them; `None` behind the last.
    pub(crate) fn next(&mut self) -> Option<Stamp> {
        self.left = self.left.checked_sub(1)?;
        let timestamp = Timestamp::from_millis(self.next);
        self.next = self.next.saturating_add(1);
        Some(Stamp { timestamp, day: Day::COUNTER })
    }
}

/// Digits alone: what a text with anything else in it was meant to be is anybody's guess.
fn parse(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('\n').unwrap_or(text);
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, CounterFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = CounterFile::new(folder.path().join("state/broker.counter"));
        (folder, file)
    }

    fn all(mut numbers: Numbers) -> Vec<u64> {
        std::iter::from_fn(|| numbers.next()).map(|stamp| stamp.timestamp.as_millis()).collect()
    }

    #[test]
    fn numbers_are_on_the_disk_before_anybody_has_them_and_none_comes_twice() {
        let (_folder, file) = file();
        assert_eq!(file.set(41).unwrap(), Change::Done);
        let taken = file.take(2).unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "43\n");
        assert_eq!(all(taken), [42, 43]);
        assert_eq!(all(file.peek(1).unwrap()), [44]);
        assert_eq!(all(file.take(1).unwrap()), [44]);
    }

    #[test]
    fn runs_at_once_take_turns_and_never_the_same_number() {
        let (_folder, file) = file();
        file.set(0).unwrap();
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let take = || (0..20).flat_map(|_| all(file.take(3).unwrap())).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert_eq!(taken, (1..=240).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_is_gone_or_holds_no_number_is_told_with_the_command_that_helps() {
        let (_folder, file) = file();
        file.set(7).unwrap();
        for text in ["", "\n", "seven", "+7", "-7", "7 ", "7\n\n", "18446744073709551616", "é"] {
            fs::write(file.path(), text).unwrap();
            let error = file.take(1).unwrap_err();
            assert_eq!(error.code().number(), 78, "{text:?}");
            assert!(error.to_string().contains("knockd client resync NAME"), "{error}");
        }
        fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(file.take(1).unwrap_err().code().number(), 78);
        fs::remove_file(file.path()).unwrap();
        assert!(file.take(1).unwrap_err().to_string().contains("--set-counter 0"));
        assert!(!file.path().exists());
    }

    #[test]
    fn it_is_never_set_back_and_ends_at_the_last_number_there_is() {
        let (_folder, file) = file();
        file.set(7).unwrap();
        assert_eq!(file.set(7).unwrap(), Change::None);
        assert_eq!(file.set(6).unwrap_err().code().number(), 64);
        file.set(u64::MAX - 1).unwrap();
        assert_eq!(all(file.take(1).unwrap()), [u64::MAX]);
        assert_eq!(file.take(1).unwrap_err().code().number(), 78);
    }
}
