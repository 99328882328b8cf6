//! Files that may hold a key: read once, and judged by what was opened.
//!
//! # Security considerations
//! - Owner and mode are those of the open descriptor: whoever swaps the file between a check and the
//!   reading gains nothing.
//! - A key may be read by its owner alone, or by a group of root's file that this process is in: so come the credentials
//!   of systemd and the secrets of Kubernetes. Nobody but the owner may write, whether or not there is a key in it: who
//!   writes a profile says where its device goes, and with which key.
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

/// Permission bits of everybody but the owner; of these, what lets write, and the group's to read.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const GROUP_READS: u32 = 0o040;

/// The user who can read and write everything anyway, and that user's group.
const ROOT: u32 = 0;

/// A file's text, and who else could have read or written it.
pub(crate) struct PrivateFile {
    path: PathBuf,
    text: Zeroizing<Vec<u8>>,
    mode: u32,
    owner: u32,
    group: u32,
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

/// A file whose text can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotUtf8 {
    /// As Notepad and PowerShell write it, unless told otherwise.
    #[error("this is UTF-16, as Windows writes it: save it as UTF-8 (PowerShell: -Encoding utf8)")]
    Utf16,
    /// Something else, on this line.
    #[error("this isn't UTF-8 text")]
    Line(usize),
}

impl NotUtf8 {
    /// The line it begins on, counted from 1.
    pub(crate) const fn line(self) -> usize {
        match self {
            Self::Utf16 => 1,
            Self::Line(line) => line,
        }
    }
}

/// U+FEFF in UTF-8: of no meaning there, and what Windows begins such a file with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
            group: metadata.gid(),
        })
    }

    /// Where it was read from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The text, without the mark that editors on Windows put before it.
    pub(crate) fn text(&self) -> Result<&str, NotUtf8> {
        let bytes = self.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.text);
        // Each character that TOML or base64 needs has a zero byte in UTF-16.
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] = bytes {
            return Err(NotUtf8::Utf16);
        }
        std::str::from_utf8(bytes).map_err(|error| {
            let valid = bytes.iter().take(error.valid_up_to());
            NotUtf8::Line(1 + valid.filter(|byte| **byte == b'\n').count())
        })
    }

    /// Refuses a file whose key somebody else could read or change.
    pub(crate) fn require_private(&self) -> Result<(), Error> {
        match self.mode & OTHERS {
            0 => {}
            GROUP_READS if self.owner == ROOT && is_own_group(self.group) => {}
            _ => {
                let path = self.path.display();
                return Err(Error::Permission(format!(
                    "{path} holds a key, and others than its owner have access to it (mode {:04o}): as {}, chmod 600 {path}. {SECRETS}",
                    self.mode & 0o7777,
                    self.owner_as_told(),
                )));
            }
        }
        self.require_own()
    }

    /// Refuses a file that somebody else could write.
    pub(crate) fn require_unchanged_by_others(&self) -> Result<(), Error> {
        if self.mode & OTHERS_WRITE == 0 {
            return self.require_own();
        }
        let path = self.path.display();
        Err(Error::Permission(format!(
            "{path} says where to knock and with which key, and others than its owner may write it (mode {:04o}): as {}, chmod go-w {path}",
            self.mode & 0o7777,
            self.owner_as_told(),
        )))
    }

    fn require_own(&self) -> Result<(), Error> {
        let user = nix::unistd::geteuid().as_raw();
        if self.owner == ROOT || self.owner == user {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::Permission(format!(
            "{path} belongs to user {}, who can change where this one knocks and with which key: as root, chown {user} {path}",
            self.owner,
        )))
    }

    /// Whom to be for the command that an error names.
    fn owner_as_told(&self) -> String {
        if self.owner == ROOT { "root".to_owned() } else { format!("user {}", self.owner) }
    }
}

/// Where a file's mode isn't this host's to change.
const SECRETS: &str = "Where it comes from outside: defaultMode: 0400 for a secret of Kubernetes (with fsGroup, 0440), \
LoadCredential= in a unit of systemd, mode: 0400 for a secret of Docker";

/// Whether this process is in a group, by its effective group or another: nobody learns by it what this process can't
/// read. Root's counts as well, since its members are root's business.
fn is_own_group(group: u32) -> bool {
    let own = nix::unistd::getgroups().unwrap_or_default();
    let own = own.into_iter().chain([nix::unistd::getegid()]);
    group == ROOT || own.into_iter().any(|id| id.as_raw() == group)
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
        for bit in [0o020, 0o010, 0o004, 0o002, 0o001] {
            let (_folder, path) = file_of_mode(0o600 | bit);
            let error = PrivateFile::read(&path).unwrap().require_private().unwrap_err();
            assert_eq!(error.code().number(), 77);
            assert!(
                error.to_string().contains(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
        }
    }

    /// As systemd hands on credentials, and Kubernetes the secrets of a pod with an fsGroup.
    #[test]
    fn a_key_of_roots_that_a_group_of_this_process_may_read_is_private_and_no_other_group() {
        let own = nix::unistd::getegid().as_raw();
        let stranger = (1..).find(|group| !is_own_group(*group)).unwrap();
        for mode in [0o440, 0o640, 0o040] {
            let (_folder, path) = file_of_mode(0o400);
            let mut file = PrivateFile::read(&path).unwrap();
            (file.mode, file.owner) = (mode, ROOT);
            for (group, is_private) in [(ROOT, true), (own, true), (stranger, false)] {
                file.group = group;
                assert_eq!(file.require_private().is_ok(), is_private, "{mode:o} of group {group}");
            }
        }
    }

    #[test]
    fn a_key_of_this_users_own_is_private_without_a_group_only() {
        let (_folder, path) = file_of_mode(0o640);
        let mut file = PrivateFile::read(&path).unwrap();
        (file.owner, file.group) = (4_294_967_000, nix::unistd::getegid().as_raw());
        assert_eq!(file.require_private().unwrap_err().code().number(), 77);
    }

    #[test]
    fn a_file_without_a_key_may_be_read_by_all_and_written_by_its_owner_alone() {
        for (mode, is_fine) in [(0o644, true), (0o755, true), (0o664, false), (0o646, false)] {
            let (_folder, path) = file_of_mode(mode);
            let file = PrivateFile::read(&path).unwrap();
            assert_eq!(file.require_unchanged_by_others().is_ok(), is_fine, "{mode:o}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused_and_one_of_root_is_not() {
        let (_folder, path) = file_of_mode(0o600);
        let mut file = PrivateFile::read(&path).unwrap();
        file.owner = 0;
        assert!(file.require_private().is_ok());
        file.owner = nix::unistd::geteuid().as_raw() + 1;
        for result in [file.require_private(), file.require_unchanged_by_others()] {
            let error = result.unwrap_err();
            assert_eq!(error.code().number(), 77);
            assert!(error.to_string().contains("chown"), "{error}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_a_missing_one_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(PrivateFile::read(folder.path()), Err(ReadError::Other(_))));
        assert!(matches!(PrivateFile::read(Path::new("/dev/null")), Err(ReadError::Other(_))));
        let missing = folder.path().join("none");
        assert!(matches!(PrivateFile::read(&missing), Err(ReadError::Missing)));
    }

    fn text_of(bytes: &[u8]) -> Result<String, NotUtf8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        PrivateFile::read(&path).unwrap().text().map(str::to_owned)
    }

    #[test]
    fn the_line_that_is_no_utf_8_is_counted_from_one() {
        assert_eq!(text_of(b"a\nb\n\xff\n"), Err(NotUtf8::Line(3)));
    }

    #[test]
    fn a_text_from_windows_is_read_and_one_in_utf_16_is_called_so() {
        assert_eq!(text_of(b"\xef\xbb\xbf[a]\r\n").as_deref(), Ok("[a]\r\n"));
        let utf16: Vec<u8> = "[a]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "[a]".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in
            [[&[0xff, 0xfe][..], &utf16].concat(), [&[0xfe, 0xff][..], &big].concat(), utf16, big]
        {
            assert_eq!(text_of(&bytes), Err(NotUtf8::Utf16));
        }
    }
}
