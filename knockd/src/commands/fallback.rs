//! The table that was in last, kept in a file for a boot at which the configuration is wrong.
//!
//! # Security considerations
//! - Whoever writes that file says what root gives to nft. It is made for its owner alone, takes its name when it
//!   is whole, and one that somebody else owns or can write to is not read.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::unistd::geteuid;

use crate::{
    config,
    plain::{self, Links},
    plan, telemetry,
};

/// Largest file that is read, in bytes: a table without elements is a few thousand.
const MAX_LEN: u64 = 16 << 20;

/// Where the units keep it.
const FILE: &str = "/var/lib/knockd-firewall/table.nft";

/// Has the file that the units keep follow a configuration that a running daemon has just applied, with so many
/// clients: if this is the configuration that the units go by, and this user may. Nothing is made where none is.
///
/// # Errors
/// What keeps it from being written, with what to do about it: then a boot with a wrong configuration puts an older
/// table in.
pub(super) fn follow(config: &Path, clients: usize) -> Result<(), String> {
    let file = Path::new(FILE);
    let is_theirs = config == Path::new(config::DEFAULT_PATH) && geteuid().is_root();
    if is_theirs && fs::symlink_metadata(file).is_ok() {
        return follow_at(file, config, clients);
    }
    Ok(())
}

fn follow_at(file: &Path, config: &Path, clients: usize) -> Result<(), String> {
    let sound = config::load_without_clients(config).map_err(|mistakes| mistakes.to_string())?;
    keep(file, &plan::ruleset(&sound, clients).script()).map_err(|error| {
        let file = file.display();
        format!(
            "{file}, which goes in at a boot when the configuration is wrong, can't be written and is an older table: \
             {error}; when that is mended: knockd firewall install --fallback {file}"
        )
    })
}

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
    let (opened, metadata) = plain::open(file, MAX_LEN, Links::Refused)?;
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
    fn what_is_kept_follows_a_changed_configuration_with_the_ports_that_it_guards_by_then() {
        let folder = config::tests::Folder::new(config::tests::MAIN);
        let file = folder.main().with_file_name("table.nft");
        follow_at(&file, &folder.main(), 1).unwrap();
        assert!(!read(&file).unwrap().contains("8884"));
        folder.write("knockd.toml", &config::tests::MAIN.replace("8883", "8884"));
        follow_at(&file, &folder.main(), 1).unwrap();
        assert!(read(&file).unwrap().contains("8884"));
        let nowhere = folder.main().with_file_name("none").join("table.nft");
        let said = follow_at(&nowhere, &folder.main(), 1).unwrap_err();
        assert!(said.contains("knockd firewall install --fallback"), "{said}");
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
