//! What must outlive the daemon: accepted packets ([`seen`]), the counters of clients without a clock ([`counted`]),
//! who holds which door ([`held`]), and who is banned ([`banned`]).
//!
//! What of it a packet waits for, and what is synced, is the caller's to say ([`crate::admission`]): a packet is in
//! its second memory ([`twin`]) or in its file before it has any effect, and so it outlives kill -9. Counters, and a
//! ceiling on the stamps of accepted packets, are on the disk before that, and go on after a reboot; all of it is when
//! the daemon ends in order. After a reboot grants are over, and bans go on.
//!
//! # Security considerations
//! - One daemon at a time has a state folder: it holds a lock for as long as it lives, so that two
//!   memories can't drift apart and accept one packet twice.
//! - Every file says which boot and which daemon wrote it. A file of accepted packets that is missing or damaged is
//!   reported, and nothing stamped at or before *start + skew* is accepted; after a loss of power nothing at or below
//!   its ceiling is.
//! - An empty folder is one that was lost, but for the one that whoever installs the daemon has marked
//!   ([`FRESH`]): that mark is gone, for good, before anything is accepted.
//! - What can't be written is refused: no door opens for a packet that is not recorded.
//! - Root's commands read the folder, which is the daemon's user's: what isn't a plain file is refused ([`plain`]).
//! - A file that somebody has removed or put another in the place of is put back as it was, before anything
//!   else is written down.

pub mod banned;
pub mod counted;
pub mod held;
pub mod seen;
pub mod twin;

mod codec;
mod header;
mod places;

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::plain::{self, Links};

/// A folder that systemd makes for the daemon, below /run. The state folder is in it until the next boot, if its own place
/// is on a disk that can't be written.
pub const VOLATILE: &str = "/run/knockd-state";

/// The name of the file that marks a state folder in which there never was anything.
pub const FRESH: &str = "fresh";

/// What holds the boot's name where /proc shows processes alone: the unit sets it by systemd's %b.
const BOOT_ID_VARIABLE: &str = "KNOCKD_BOOT_ID";

/// Names one run of the kernel: /proc/sys/kernel/random/boot_id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId([u8; 16]);

impl BootId {
    /// The boot that this process runs in.
    ///
    /// # Errors
    /// Where the kernel doesn't tell.
    pub fn current() -> io::Result<Self> {
        let text = match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                env::var(BOOT_ID_VARIABLE).map_err(|_| error)?
            }
            text => text?,
        };
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| io::Error::other("the kernel's boot_id is no UUID"))
    }

    /// A boot of this number: of a name of its own, or for tests.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Names one run of the daemon: 16 random bytes, drawn at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaemonId([u8; 16]);

impl DaemonId {
    /// A daemon of these bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Who writes a file, and when: stands in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The run of the kernel.
    pub boot: BootId,
    /// The run of the daemon.
    pub daemon: DaemonId,
}

/// Why a state folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error(
        "{folder}: another knockd is using this state folder; stop it first (systemctl stop knockd), or give this one a folder of its own (state = \"…\")"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// It can't be made, opened, read or written.
    #[error("{path}: {error}; the daemon's user must be able to write there (state = \"…\")")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
}

impl StateError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

/// A file of the state folder, written in place: [`File`], or its twin in tests.
pub trait StateFile: FileExt {
    /// Makes sure that what was written survives a loss of power.
    ///
    /// # Errors
    /// What the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Whether it is the file at this path; no longer once somebody has removed it, or put another in its place.
    fn is_at(&self, path: &Path) -> bool;
}

impl StateFile for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_at(&self, path: &Path) -> bool {
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        let (own, there) = (self.metadata().map(identity), fs::metadata(path).map(identity));
        matches!((own, there), (Ok(own), Ok(there)) if own == there)
    }
}

/// How long what a state folder holds is kept.
#[derive(Debug)]
pub enum Kept {
    /// Over reboots.
    ForGood,
    /// Until the next boot, for the folder of the configuration can't be written.
    UntilReboot(StateError),
}

/// The state folder, held by this process alone until it ends.
pub struct StateFolder<D = File> {
    path: PathBuf,
    lock: File,
    make: Make<D>,
    twin: Option<Box<StateFolder>>,
}

/// Makes of a new file, by its path, what is written to.
type Make<D> = Box<dyn Fn(&Path, File) -> D + Send>;

impl StateFolder {
    /// Makes the folder if it isn't there (mode 0700), and takes its lock.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another daemon has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_with(path, |_, file| file)
    }

    /// Opens it as [`StateFolder::open`] does; if it is on a read-only file system, opens the one in the folder `volatile`
    /// instead, if that is there. What it holds outlives the daemon, and not the boot: after a reboot the memory of accepted
    /// packets counts as lost, as on a new folder, and no packet is accepted twice.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another daemon has it; of a read-only one what it said, where there is no other.
    pub fn open_or(path: &Path, volatile: &Path) -> Result<(Self, Kept), StateError> {
        match Self::open(path) {
            Err(StateError::Io { path, error })
                if error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                let unwritable = StateError::Io { path, error };
                if !volatile.is_dir() {
                    return Err(unwritable);
                }
                Ok((Self::open(&within(volatile))?, Kept::UntilReboot(unwritable)))
            }
            opened => Ok((opened?, Kept::ForGood)),
        }
    }

    /// Whether a daemon has the folder at this path now, or the one in [`VOLATILE`]; not if that can't be told.
    #[must_use]
    pub fn is_in_use(path: &Path) -> bool {
        let is_locked = |folder: &Path| {
            let lock = plain::open(&lock_path(folder), u64::MAX, Links::Refused);
            lock.is_ok_and(|(lock, _)| {
                matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
            })
        };
        is_locked(path) || is_locked(&within(Path::new(VOLATILE)))
    }
}

impl<D: StateFile> StateFolder<D> {
    /// Opens it as [`StateFolder::open`] does; `make` makes of each new file, by its path, what is written to.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another daemon has it.
    pub fn open_with(
        path: &Path,
        make: impl Fn(&Path, File) -> D + Send + 'static,
    ) -> Result<Self, StateError> {
        Ok(Self { path: path.to_owned(), lock: lock(path)?, make: Box::new(make), twin: None })
    }

    /// Keeps accepted packets and counters in this one, too: see [`twin`].
    pub fn set_twin(&mut self, twin: StateFolder) {
        self.twin = Some(Box::new(twin));
    }

    /// The folder of its twin, if it has one; it is the caller's from here on.
    pub fn take_twin(&mut self) -> Option<StateFolder> {
        self.twin.take().map(|twin| *twin)
    }

    /// Makes the folder again if it is gone, and takes its lock again.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another daemon has it now.
    pub fn keep(&mut self) -> Result<(), StateError> {
        if !self.lock.is_at(&lock_path(&self.path)) {
            self.lock = lock(&self.path)?;
        }
        Ok(())
    }

    /// Puts a file back, as it was, if it isn't at its path any more. Whether it had to be.
    fn put_back(&self, path: &Path, file: &mut D) -> Result<bool, StateError> {
        if file.is_at(path) {
            return Ok(false);
        }
        let content = read_all(file).map_err(StateError::io(path))?;
        *file = self.replace(path, &content)?;
        Ok(true)
    }

    /// Puts a whole new file in a file's place: nobody ever sees a half-written one.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<D, StateError> {
        self.replace_with(path, content, |_| Ok(()))
    }

    /// Puts a whole new file in a file's place, once `ready` has seen it.
    fn replace_with(
        &self,
        path: &Path,
        content: &[u8],
        ready: impl FnOnce(&D) -> io::Result<()>,
    ) -> Result<D, StateError> {
        let fresh = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        let (file, _) = plain::open_with(&mut options, &fresh, Links::Refused)
            .map_err(StateError::io(&fresh))?;
        let file = (self.make)(path, file);
        file.write_all_at(content, 0)
            .and_then(|()| ready(&file))
            .map_err(StateError::io(&fresh))?;
        fs::rename(&fresh, path).map_err(StateError::io(path))?;
        Ok(file)
    }

    /// Puts a whole new file in a file's place, as [`Self::replace`] does, so that it survives a loss of power.
    fn replace_for_good(&self, path: &Path, content: &[u8]) -> Result<D, StateError> {
        let file = self.replace_with(path, content, |file| file.sync())?;
        let folder = File::open(&self.path).and_then(|folder| folder.sync_all());
        folder.map_err(StateError::io(&self.path))?;
        Ok(file)
    }

    /// Puts a file back, as [`Self::put_back`] does, so that it survives a loss of power.
    fn put_back_for_good(&self, path: &Path, file: &mut D) -> Result<bool, StateError> {
        if file.is_at(path) {
            return Ok(false);
        }
        let content = read_all(file).map_err(StateError::io(path))?;
        *file = self.replace_for_good(path, &content)?;
        Ok(true)
    }

    /// What it means that there is no file of accepted packets.
    fn absence(&self) -> seen::Condition {
        match self.is_fresh() {
            true => seen::Condition::First,
            false => seen::Condition::Missing,
        }
    }

    /// Whether whoever made it has marked it as one in which there never was anything, and there isn't.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        is_there(&self.path.join(FRESH))
            && ![self.seen(), self.counted(), self.held(), self.banned()]
                .iter()
                .any(|path| is_there(path))
    }

    /// Takes that mark away, so that it doesn't come back after a loss of power.
    ///
    /// # Errors
    /// If it can't be: then nothing must be accepted.
    pub fn take_mark(&self) -> Result<(), StateError> {
        let path = self.path.join(FRESH);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(StateError::io(&path))?;
                let folder = File::open(&self.path).and_then(|folder| folder.sync_all());
                folder.map_err(StateError::io(&self.path))
            }
        }
    }

    /// The file of counters.
    #[must_use]
    pub fn counted(&self) -> PathBuf {
        self.path.join(counted::FILE_NAME)
    }

    /// The file of accepted packets.
    #[must_use]
    pub fn seen(&self) -> PathBuf {
        self.path.join(seen::FILE_NAME)
    }

    /// The file of grants.
    #[must_use]
    pub fn held(&self) -> PathBuf {
        self.path.join(held::FILE_NAME)
    }

    /// The file of bans.
    #[must_use]
    pub fn banned(&self) -> PathBuf {
        self.path.join(banned::FILE_NAME)
    }
}

/// The state folder in one below /run, which others may look into.
fn within(volatile: &Path) -> PathBuf {
    volatile.join("state")
}

fn lock_path(folder: &Path) -> PathBuf {
    folder.join("lock")
}

/// Makes the folder if it isn't there, and takes its lock.
fn lock(folder: &Path) -> Result<File, StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(StateError::io(folder))?;
    let path = lock_path(folder);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let (lock, _) =
        plain::open_with(&mut options, &path, Links::Refused).map_err(StateError::io(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StateError::Io { path, error }),
    }
}

fn read_all(file: &impl FileExt) -> io::Result<Vec<u8>> {
    let (mut content, mut page) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut page, content.len() as u64)? {
            0 => return Ok(content),
            count => content.extend(page.iter().take(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_written_is_where_it_is_and_what_is_no_folder_is_a_mistake() {
        let place = tempfile::tempdir().unwrap();
        let (folder, kept) = StateFolder::open_or(&place.path().join("a"), place.path()).unwrap();
        assert!(matches!(kept, Kept::ForGood) && folder.path == place.path().join("a"));
        let file = place.path().join("file");
        fs::write(&file, "no folder").unwrap();
        assert!(StateFolder::open_or(&file, place.path()).is_err(), "not read-only: a mistake");
    }
}
