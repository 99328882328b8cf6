//! The devices' profiles, one file for each.
//!
//! # Security considerations
//! Each holds a key. The folder is for its owner alone, and so is every file from its first byte on.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::{
    commands::{Exit, Failure},
    gate::policy::ClientName,
};

/// A folder that only its owner can use.
pub(super) struct Profiles(PathBuf);

impl Profiles {
    /// Makes the folder, or looks at the one that is there.
    ///
    /// # Errors
    /// [`Exit::NoPerm`] if others can use it, [`Exit::CantCreat`] if it can't be made.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(cant_write(path, &error));
            }
            _ => {}
        }
        Self::judge(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Looks at the folder, if there is one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn judge(path: &Path) -> Result<(), Failure> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(|error| cant_write(path, &error))?,
        };
        let shown = path.display();
        if !metadata.is_dir() {
            let message = format!("{shown} is no folder: name another with --profiles");
            return Err(Failure::new(Exit::CantCreat, message));
        }
        if metadata.mode() & 0o077 != 0 || metadata.uid() != geteuid().as_raw() {
            let message = format!(
                "others can use {shown}, and profiles hold keys: name another folder with --profiles, or run `chown root {shown} && chmod 0700 {shown}`"
            );
            return Err(Failure::new(Exit::NoPerm, message));
        }
        Ok(())
    }

    /// Writes a client's profile, whole or not at all; whether that changed anything.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] if it can't be written.
    pub(super) fn write(&self, name: &ClientName, text: &str) -> Result<bool, Failure> {
        let path = self.0.join(format!("{name}.toml"));
        let write = || -> io::Result<bool> {
            let is_private = fs::symlink_metadata(&path)
                .is_ok_and(|found| found.is_file() && found.mode() & 0o777 == 0o600);
            if is_private && *Zeroizing::new(fs::read(&path)?) == text.as_bytes() {
                return Ok(false);
            }
            let mut file =
                tempfile::Builder::new().prefix(".").suffix(".new").tempfile_in(&self.0)?;
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(Permissions::from_mode(0o600))?;
            file.persist(&path)?;
            Ok(true)
        };
        write().map_err(|error| cant_write(&path, &error))
    }
}

fn cant_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::CantCreat, format!("can't write {}: {error}", path.display()))
}
