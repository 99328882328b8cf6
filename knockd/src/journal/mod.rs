//! What must outlive the daemon: accepted packets ([`seen`]), who holds which door ([`held`]), and who is
//! banned ([`banned`]).
//!
//! All of it is written with write(2) before a door opens, and survives kill -9. It is not synced: after
//! a reboot the file of accepted packets counts as not whole, the grants are over, and bans go on.
//!
//! # Security considerations
//! - One daemon at a time has a state folder: it holds a lock for as long as it lives, so that two
//!   memories can't drift apart and accept one packet twice.
//! - Every file says which boot and which daemon wrote it. A file that is missing, damaged or of an
//!   earlier boot is reported, and nothing stamped at or before *start + skew* is accepted.
//! - What can't be written is refused: no door opens for a packet that is not recorded.

pub mod banned;
pub mod held;
pub mod seen;

mod codec;
mod places;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Names one run of the kernel: /proc/sys/kernel/random/boot_id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId([u8; 16]);

impl BootId {
    /// The boot that this process runs in.
    ///
    /// # Errors
    /// Where the kernel doesn't tell.
    pub fn current() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| io::Error::other("the kernel's boot_id is no UUID"))
    }

    /// A boot of this number, for tests.
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

/// The state folder, held by this process alone until it ends.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder if it isn't there (mode 0700), and takes its lock.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another daemon has it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StateError::io(path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(StateError::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { folder: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StateError::Io { path: lock_path, error }),
        }
    }

    /// Whether a daemon has the folder at this path now; not if that can't be told.
    #[must_use]
    pub fn is_in_use(path: &Path) -> bool {
        let lock = File::open(path.join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
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

/// Puts a whole new file in a file's place: nobody ever sees a half-written one.
fn replace(path: &Path, content: &[u8]) -> Result<File, StateError> {
    use std::io::Write as _;

    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(StateError::io(&fresh))?;
    file.write_all(content).map_err(StateError::io(&fresh))?;
    fs::rename(&fresh, path).map_err(StateError::io(path))?;
    Ok(file)
}
