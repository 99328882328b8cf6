//! Files that may hold a key: read once, and judged by what was opened.
//!
//! # Security considerations
//! - Owner and mode are those of the open descriptor: whoever swaps the file between a check and the
//!   reading gains nothing.
//! - The text is wiped from memory when it is dropped, and it is read into a buffer that never moves.
//! - Nothing of the text is ever part of a message.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::exit::Error;

/// Largest file that is read. A profile has some 200 bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The user who can read and write everything anyway.
const ROOT: u32 = 0;

/// A file's text, and who else could have read or written it.
pub(crate) struct PrivateFile {
    path: PathBuf,
    text: Zeroizing<Vec<u8>>,
    mode: u32,
    owner: u32,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// There is no such file.
    Missing,
    /// The system won't let this user read it.
    Denied(io::Error),
    /// Anything else.
    Other(String),
}

impl PrivateFile {
    /// Reads a file, without judging yet whether it is private enough.
    pub(crate) fn read(path: &Path) -> Result<Self, ReadError> {
        // Without O_NONBLOCK, opening a named pipe would hang until somebody writes to it.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(ReadError::from)?;
        let metadata = file.metadata().map_err(ReadError::from)?;
        if !metadata.is_file() {
            return Err(ReadError::Other("it isn't a regular file".into()));
        }
        if metadata.len() > MAX_LEN {
            return Err(ReadError::Other(format!("it is longer than {MAX_LEN} bytes")));
        }
        Ok(Self {
            path: path.to_owned(),
            text: read_at_most(&mut file, metadata.len()).map_err(ReadError::from)?,
            mode: metadata.mode(),
            owner: metadata.uid(),
        })
    }

    /// Where it was read from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The text; an error is the number of the line that isn't UTF-8.
    pub(crate) fn text(&self) -> Result<&str, usize> {
        std::str::from_utf8(&self.text).map_err(|error| {
            let valid = self.text.iter().take(error.valid_up_to());
            1 + valid.filter(|byte| **byte == b'\n').count()
        })
    }

    /// Refuses a file that somebody else could read or write.
    pub(crate) fn require_private(&self) -> Result<(), Error> {
        let path = self.path.display();
        if self.mode & OTHERS != 0 {
            return Err(Error::Permission(format!(
                "{path} holds a key, and others than its owner have access to it (mode {:04o}): chmod 600 {path}",
                self.mode & 0o7777,
            )));
        }
        if self.owner == ROOT {
            return Ok(());
        }
        let user = nix::unistd::geteuid().as_raw();
        if self.owner == user {
            return Ok(());
        }
        Err(Error::Permission(format!(
            "{path} holds a key, and belongs to user {}, who can change it: chown {user} {path}",
            self.owner,
        )))
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Missing
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            Self::Denied(error)
        } else {
            Self::Other(error.to_string())
        }
    }
}

/// Reads no further than the length that the open file had, into memory taken once.
fn read_at_most(file: &mut File, len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut text = Zeroizing::new(vec![0; len]);
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn file_of_mode(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "text\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_only_its_owner_can_use_is_private() {
        for mode in [0o600, 0o400, 0o700] {
            let (_folder, path) = file_of_mode(mode);
            let file = PrivateFile::read(&path).unwrap();
            assert_eq!(file.text(), Ok("text\n"));
            assert!(file.require_private().is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_others_can_use_in_any_way_is_refused_with_the_command_that_mends_it() {
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let (_folder, path) = file_of_mode(0o600 | bit);
            let error = PrivateFile::read(&path).unwrap().require_private().unwrap_err();
            assert_eq!(error.code().number(), 77);
            assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())));
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused_and_one_of_root_is_not() {
        let (_folder, path) = file_of_mode(0o600);
        let mut file = PrivateFile::read(&path).unwrap();
        file.owner = 0;
        assert!(file.require_private().is_ok());
        file.owner = nix::unistd::geteuid().as_raw() + 1;
        let error = file.require_private().unwrap_err();
        assert_eq!(error.code().number(), 77);
        assert!(error.to_string().contains("chown"), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_a_missing_one_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(PrivateFile::read(folder.path()), Err(ReadError::Other(_))));
        assert!(matches!(PrivateFile::read(Path::new("/dev/null")), Err(ReadError::Other(_))));
        let missing = folder.path().join("none");
        assert!(matches!(PrivateFile::read(&missing), Err(ReadError::Missing)));
    }

    #[test]
    fn the_line_that_is_no_utf_8_is_counted_from_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"a\nb\n\xff\n").unwrap();
        assert_eq!(PrivateFile::read(&path).unwrap().text(), Err(3));
    }
}
