//! Opening a configuration file, and judging on the open descriptor whether it can be trusted.
//!
//! # Security considerations
//! - A file is opened first, and its owner and mode are asked of the descriptor: what is judged is what
//!   is read, whatever happens to the name meanwhile.
//! - Whoever can write a file of clients can let himself in, and whoever can read one can knock as any
//!   of its clients. Such a file makes the whole configuration refused; a warning would be overlooked.
//! - Text is read into one buffer, which is wiped when it is dropped.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{fcntl::OFlag, unistd::geteuid};
use zeroize::Zeroizing;

use super::mistake::{Mistake, MistakeKind};
use crate::plain::{self, Links, NotPlain};

/// Largest file that is read, in bytes: some 300,000 clients. It bounds the memory that a file put here
/// by mistake can take.
pub(super) const MAX_LEN: usize = 64 << 20;

/// What others could do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// It holds keys: its group may read it, and others may do nothing with it.
    Keys,
    /// It holds none: its group and others may read it, and not write to it.
    Settings,
}

impl Guard {
    /// The bits of the mode that mustn't be set.
    const fn forbidden(self) -> u32 {
        match self {
            Self::Keys => 0o027,
            Self::Settings => 0o022,
        }
    }
}

/// Why a file or folder can't be trusted, and the command that mends it.
fn fault(path: &Path, mode: u32, owner: u32, me: u32, guard: Guard) -> Option<(String, String)> {
    if owner != 0 && owner != me {
        let what = format!("its owner is the user {owner}, neither root nor the one who reads it");
        return Some((what, format!("run `chown root {}`", quoted(path))));
    }
    exposure(path, mode, guard)
}

/// What others than a file's owner could do with it and mustn't, and the command that mends it.
pub(crate) fn exposure(path: &Path, mode: u32, guard: Guard) -> Option<(String, String)> {
    let name = quoted(path);
    let excess = mode & guard.forbidden();
    let can: Vec<_> = [
        (0o020, "its group can write to it"),
        (0o004, "others can read it"),
        (0o002, "others can write to it"),
        (0o001, "others can execute it"),
    ]
    .into_iter()
    .filter_map(|(bit, can)| (excess & bit != 0).then_some(can))
    .collect();
    if can.is_empty() {
        return None;
    }
    let mend = match guard {
        Guard::Keys => format!("run `chmod 0640 {name}`"),
        Guard::Settings => format!("run `chmod go-w {name}`"),
    };
    Some((format!("{} (mode {:04o})", can.join(", "), mode & 0o7777), mend))
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Reads a file; reports whatever is wrong with it. One that can't be trusted is still read, so that
/// the mistakes inside it are told in the same run.
pub(super) fn read(
    path: &Path,
    guard: Guard,
    mistakes: &mut Vec<Mistake>,
) -> Option<Zeroizing<Vec<u8>>> {
    match try_read(path, guard, mistakes) {
        Ok(text) => text,
        // One of a listed folder's; the main file must be there.
        Err(error) if guard == Guard::Keys && is_gone(path, &error) => None,
        Err(error) => {
            let mut mistake = unreadable(path, &error);
            if guard == Guard::Keys && error.kind() == ErrorKind::PermissionDenied {
                let name = quoted(path);
                mistake.instead = format!(
                    "run this as root; if it is the daemon that may not: `chgrp knockd-keys {name} && chmod 0640 {name}`"
                );
            }
            mistakes.push(mistake);
            None
        }
    }
}

/// Whether a file is gone that was there when its folder was listed: somebody has removed it meanwhile. A link that
/// leads nowhere is there.
pub(super) fn is_gone(path: &Path, error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        && fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn try_read(
    path: &Path,
    guard: Guard,
    mistakes: &mut Vec<Mistake>,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Links are an admin's: whoever can make one in these folders can write the files as well.
    let opened = plain::open_with(OpenOptions::new().read(true), path, Links::Followed);
    let (file, metadata) = match opened {
        Err(error) if matches!(NotPlain::of(&error), Some(NotPlain::Kind(_))) => {
            let (what, instead) = ("it is not a file", "move it away, or put a file in its place");
            mistakes.push(Mistake::of_file(path, MistakeKind::Content, what, instead));
            return Ok(None);
        }
        opened => opened?,
    };
    if let Some((what, mend)) =
        fault(path, metadata.mode(), metadata.uid(), geteuid().as_raw(), guard)
    {
        mistakes.push(Mistake::of_file(path, MistakeKind::Permission, what, mend));
    }
    if metadata.len() > MAX_LEN as u64 {
        let what = format!("it is larger than {} MiB", MAX_LEN >> 20);
        let instead = "split it into several files";
        mistakes.push(Mistake::of_file(path, MistakeKind::Content, what, instead));
        return Ok(None);
    }
    // With room for all of it from the start, the text never moves and leaves a copy behind.
    let length = usize::try_from(metadata.len()).unwrap_or(0);
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(metadata.len()).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Judges the folder of the clients; reports whatever is wrong with it. `None` if it can't be listed.
pub(super) fn judge_folder(path: &Path, mistakes: &mut Vec<Mistake>) -> Option<()> {
    let directory = OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(directory.bits()).open(path);
    let metadata = match opened.and_then(|folder| folder.metadata()) {
        Ok(metadata) => metadata,
        Err(error) => {
            mistakes.push(if error.kind() == ErrorKind::NotFound {
                let what = "the folder of the clients doesn't exist";
                let instead = format!(
                    "run `mkdir -m 0750 {}`; a copy of knockd.toml is checked by `knockd check COPY`",
                    quoted(path)
                );
                Mistake::of_file(path, MistakeKind::Content, what, instead)
            } else if error.kind() == ErrorKind::NotADirectory {
                let instead = "write the path of a folder as `clients` in knockd.toml";
                Mistake::of_file(path, MistakeKind::Content, "it is not a folder", instead)
            } else {
                unreadable(path, &error)
            });
            return None;
        }
    };
    let me = geteuid().as_raw();
    if let Some((what, mend)) = fault(path, metadata.mode(), metadata.uid(), me, Guard::Settings) {
        mistakes.push(Mistake::of_file(path, MistakeKind::Permission, what, mend));
    }
    Some(())
}

/// What to do about a file or folder that can't be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Mistake {
    let (kind, what, instead) = if error.kind() == ErrorKind::NotFound {
        let instead =
            "name the right one with --config, or begin with the example that comes with knockd";
        (MistakeKind::NoInput, "there is no such file".to_owned(), instead)
    } else if error.kind() == ErrorKind::PermissionDenied {
        let instead = "run this as root, or as the user that the daemon runs as";
        (MistakeKind::Permission, "you may not read it".to_owned(), instead)
    } else {
        (MistakeKind::Io, format!("it can't be read: {error}"), "look at the path and the disk")
    };
    Mistake::of_file(path, kind, what, instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u32 = 1000;

    #[test]
    fn a_file_with_keys_may_be_read_by_its_group_and_by_nobody_else() {
        let path = Path::new("/etc/knockd/clients.d/press 17.toml");
        for mode in [0o400, 0o600, 0o640, 0o440, 0o100_640] {
            assert_eq!(fault(path, mode, 0, ME, Guard::Keys), None, "{mode:o}");
        }
        for (mode, what) in [
            (0o644, "others can read it (mode 0644)"),
            (0o660, "its group can write to it (mode 0660)"),
            (0o602, "others can write to it (mode 0602)"),
            (0o646, "others can read it, others can write to it (mode 0646)"),
            (0o641, "others can execute it (mode 0641)"),
        ] {
            let (is, mend) = fault(path, mode, 0, ME, Guard::Keys).unwrap();
            assert_eq!(is, what);
            assert_eq!(mend, "run `chmod 0640 '/etc/knockd/clients.d/press 17.toml'`");
        }
    }

    #[test]
    fn settings_may_be_read_by_all_and_written_by_their_owner() {
        let path = Path::new("/etc/knockd/knockd.toml");
        assert_eq!(fault(path, 0o644, ME, ME, Guard::Settings), None);
        for mode in [0o664, 0o646] {
            let (_, mend) = fault(path, mode, 0, ME, Guard::Settings).unwrap();
            assert_eq!(mend, "run `chmod go-w /etc/knockd/knockd.toml`");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused_whatever_its_mode() {
        let (what, mend) = fault(Path::new("f"), 0o400, 1001, ME, Guard::Keys).unwrap();
        assert!(what.contains("1001"));
        assert_eq!(mend, "run `chown root f`");
    }

    #[test]
    fn a_pipe_or_a_folder_in_place_of_a_file_is_refused_at_once() {
        let mut mistakes = Vec::new();
        for path in ["/dev/null", "/"] {
            assert!(read(Path::new(path), Guard::Settings, &mut mistakes).is_none(), "{path}");
        }
        assert!(mistakes.iter().all(|mistake| mistake.what == "it is not a file"));
    }
}
