//! The number of the last packet, which a device without a clock keeps in a file. PROTOCOL.md, step 6.
//!
//! # Security considerations
//! - A number is on the disk before a packet carries it ([`crate::numbers`]): after a loss of power none comes twice.
//!   One that was written and not sent is left out, which costs nothing.
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

use crate::{
    exit::Error,
    storage::{self, ReadOnly},
    unit,
};

/// How long another run may have the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it is free.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest text of a number, with its line break.
const TEXT_MAX: u64 = 21;

/// The file with the number of the last packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CounterFile(PathBuf);

impl CounterFile {
    /// The file at this path; nothing is opened.
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self(path)
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

    /// Keeps other runs from taking numbers, until what this returns is dropped.
    pub(crate) fn lock(&self) -> Result<File, Error> {
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

    /// The number of the last packet.
    pub(crate) fn read(&self) -> Result<u64, Error> {
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
    pub(crate) fn write(&self, number: u64) -> Result<(), Error> {
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
            "the counter {} {what}: if it was lost, `knockd client resync NAME` on the broker's host says from where on this device is to count; on a device with a new key, begin with `knock --set-counter 0`{}",
            self.0.display(),
            unit::hint(unit::STATE)
        ))
    }

    fn failed(&self, done: &str, error: &io::Error) -> Error {
        let text =
            format!("nothing was sent: the counter {} can't be {done}: {error}", self.0.display());
        match (error.kind(), storage::read_only(&self.0)) {
            (io::ErrorKind::PermissionDenied, _) => Error::Permission(format!(
                "{text}: run knock as the user whom it belongs to{}",
                unit::hint(unit::STATE)
            )),
            // No time mends what a unit doesn't allow. A disk that has failed may be mended, and is tried again.
            (io::ErrorKind::ReadOnlyFilesystem, ReadOnly::Here) => {
                Error::Permission(format!("{text}: {}", unit::STATE))
            }
            (io::ErrorKind::ReadOnlyFilesystem, ReadOnly::Disk) => Error::System(format!(
                "{text}: mount it read-write, after a check if it turned so by itself (dmesg)"
            )),
            _ => Error::System(text),
        }
    }

    /// What to say where the file is on storage that forgets, if it is.
    pub(crate) fn forgets(&self) -> Option<String> {
        let kind = storage::that_forgets(&self.0)?;
        Some(format!(
            "the counter {} is on {kind}, which forgets it when this device is restarted, and then every packet is refused: keep it on storage that lasts (counter-file)",
            self.0.display()
        ))
    }

    /// That no number is left.
    pub(crate) fn used_up(&self) -> Error {
        Error::Config(format!(
            "{}: there is no number left for another packet: give the device a new key",
            self.0.display()
        ))
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

    #[test]
    fn a_file_that_is_gone_or_holds_no_number_is_told_with_the_command_that_helps() {
        let (_folder, file) = file();
        file.set(7).unwrap();
        for text in ["", "\n", "seven", "+7", "-7", "7 ", "7\n\n", "18446744073709551616", "é"] {
            fs::write(file.path(), text).unwrap();
            let error = file.read().unwrap_err();
            assert_eq!(error.code().number(), 78, "{text:?}");
            assert!(error.to_string().contains("knockd client resync NAME"), "{error}");
        }
        fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(file.read().unwrap_err().code().number(), 78);
        fs::remove_file(file.path()).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("--set-counter 0"));
        assert!(!file.path().exists());
    }

    /// tmpfs of this machine's own: where there is none, nothing is shown.
    #[test]
    fn one_on_storage_that_forgets_is_told() {
        // Every Linux that tests run on has this tmpfs; where it is none, they can't tell.
        let path = Path::new("/dev/shm/broker.counter");
        let kind = storage::that_forgets(path).expect("/dev/shm is a tmpfs");
        let said = CounterFile::new(path.into()).forgets().unwrap();
        assert!(said.contains(kind) && said.contains("counter-file"), "{said}");
    }

    #[test]
    fn it_is_never_set_back() {
        let (_folder, file) = file();
        file.set(7).unwrap();
        assert_eq!(file.set(7).unwrap(), Change::None);
        assert_eq!(file.set(6).unwrap_err().code().number(), 64);
    }
}
