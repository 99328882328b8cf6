//! The table that was in last, kept in a file for a boot at which the configuration is wrong.
//!
//! # Security considerations
//! - Whoever writes that file says what root gives to nft. It is made for its owner alone, takes its name when it
//!   is whole, and one that somebody else owns or can write to is not read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{fcntl::OFlag, unistd::geteuid};

use crate::telemetry;

/// Largest file that is read, in bytes: a table without elements is a few thousand.
const MAX_LEN: u64 = 16 << 20;

/// Keeps a table's script in this file. It isn't written if it is there already.
///
/// # Errors
/// What the kernel says; then the file is as it was.
pub(super) fn keep(file: &Path, script: &str) -> io::Result<()> {
    if read(file).is_ok_and(|kept| kept == script) {
        return Ok(());
    }
    let folder = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For its owner alone, which is what the crate makes.
    let mut fresh = tempfile::Builder::new().prefix(".table-").tempfile_in(folder)?;
    fresh.write_all(script.as_bytes())?;
    // It is for the next boot.
    fresh.as_file().sync_all()?;
    fresh.persist(file)?;
    fs::File::open(folder)?.sync_all()
}

/// The script that was kept.
///
/// # Errors
/// If there is none that can be trusted.
pub(super) fn read(file: &Path) -> io::Result<String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(file)?;
    let metadata = opened.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_LEN {
        return Err(io::Error::other("it isn't such a file"));
    }
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write to it"));
    }
    let mut script = String::new();
    opened.take(MAX_LEN).read_to_string(&mut script)?;
    Ok(script)
}

/// A message as something that must not be overlooked: in the journal, each line is an error
/// (sd-daemon(3), the prefix of a line's level).
pub(super) fn loudly(message: &str) -> String {
    if !telemetry::stderr_is_the_journal() {
        return message.to_owned();
    }
    message.lines().map(|line| format!("<3>{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_its_owner_alone_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.nft");
        assert!(read(&file).is_err());
        for script in ["table inet a {}\n", "table inet b {}\n"] {
            keep(&file, script).unwrap();
            assert_eq!(read(&file).unwrap(), script);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_same_table_again_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.nft");
        keep(&file, "table inet a {}\n").unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        // Were it written again, it would be another file.
        let first = fs::File::open(&file).unwrap();
        keep(&file, "table inet a {}\n").unwrap();
        assert_eq!(
            (fs::metadata(&file).unwrap().ino(), first.metadata().unwrap().ino()),
            (inode, inode)
        );
    }

    #[test]
    fn a_file_that_others_can_write_a_link_or_a_folder_is_not_read_and_keeping_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.nft");
        fs::write(&file, "flush ruleset\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o622)).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("others can write"));
        keep(&file, "table inet a {}\n").unwrap();
        assert_eq!(read(&file).unwrap(), "table inet a {}\n");

        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link).is_err());
        keep(&link, "table inet a {}\n").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        assert!(read(folder.path()).is_err());
    }
}
