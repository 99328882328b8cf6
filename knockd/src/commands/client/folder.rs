//! The folder of the clients while it is changed: one command at a time, each file whole or not at all.
//!
//! # Security considerations
//! A new file is made under a hidden name that only its owner can read, gets its mode on the open
//! descriptor, and its name last. So no other user ever sees a key, and a crash at any point leaves
//! either the old state or the new one.

use std::{
    fs::{self, File, Metadata, Permissions, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

use super::{
    cut::cut,
    edit::{Edit, edit},
    show,
};
use crate::{
    commands::{Exit, Failure},
    config::{self, Config, Environment, Found, Part},
    gate::policy::{Client, ClientName},
};

/// How long to wait for another command that is at work.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(20);

/// Mode of a client's file: its group, the daemon's, may read it.
const MODE: u32 = 0o640;

/// The folder, which no other `knockd client` changes as long as this lives.
pub(super) struct Folder {
    path: PathBuf,
    /// Locked.
    folder: File,
    /// The main file, with no client.
    pub(super) config: Config,
}

impl Folder {
    /// Locks the folder, and loads the main file.
    ///
    /// # Errors
    /// The main file's mistakes; [`Exit::TempFail`] if another command is at work and stays so.
    pub(super) fn lock(config: &Path) -> Result<Self, Failure> {
        let environment = Environment::of_process();
        // Only the folder's name is needed yet; all else is read once nobody can change it any more.
        let path = config::clients_dir(config, &environment)?;
        let folder = match File::open(&path) {
            Ok(folder) => folder,
            Err(error) => {
                // The mistake that is told of it also says how to mend it.
                config::load_located(config, &environment)?;
                return Err(cant_change(&path, &error));
            }
        };
        wait_for(&folder, &path)?;
        Ok(Self { path, folder, config: config::load_without_clients(config)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The client of this name, if there is one.
    ///
    /// # Errors
    /// Mistakes in its entry, and files that can't be read or trusted.
    pub(super) fn find(&self, name: &ClientName) -> Result<Option<Found>, Failure> {
        Ok(config::find(&self.config, name)?)
    }

    /// The client of this name.
    ///
    /// # Errors
    /// As of [`Self::find`]; [`Exit::NoInput`] if there is none.
    pub(super) fn client(&self, name: &ClientName) -> Result<Found, Failure> {
        self.find(name)?.ok_or_else(|| show::unknown(name))
    }

    /// Changes keys of a client's entry, who is then as `is_right` says; all else in its file stays as it is, to the
    /// byte.
    ///
    /// # Errors
    /// [`Exit::DataErr`] if that can't be done by changing its text, [`Exit::CantCreat`] if it can't be written:
    /// nothing has changed then.
    pub(super) fn edit(
        &self,
        found: &Found,
        edits: &[Edit<'_>],
        is_right: impl Fn(&Client) -> bool,
    ) -> Result<(), Failure> {
        let Found { client, origin, entry, .. } = found;
        let by_hand = || {
            let message = format!("{origin} can't be changed in its file: change it by hand");
            Failure::new(Exit::DataErr, message)
        };
        let text = found.text.get(entry.range.clone()).ok_or_else(by_hand)?;
        let edited = edit(text, client.name.as_str(), edits).ok_or_else(by_hand)?;
        let clients = self.check(found, &edited)?;
        let is_edited = |it: &Client| it.name == client.name && is_right(it);
        if clients.len() != entry.clients || !clients.iter().any(is_edited) {
            return Err(by_hand());
        }
        self.put(found, entry, &edited)
    }

    /// Takes a client's entry out of its file; the file as well where no other client is in it.
    ///
    /// # Errors
    /// As of [`Self::edit`].
    pub(super) fn take_out(&self, found: &Found) -> Result<(), Failure> {
        let Found { client, origin, around, .. } = found;
        if found.is_alone {
            return self.remove(&origin.file);
        }
        let by_hand = || {
            let message = format!("{origin} can't be cut out of its file: remove it by hand");
            Failure::new(Exit::DataErr, message)
        };
        let text = found.text.get(around.range.clone()).ok_or_else(by_hand)?;
        let rest = cut(text, client.name.as_str()).ok_or_else(by_hand)?;
        // What is left must be what it was but for one client.
        if self.check(found, &rest)?.len() + 1 != around.clients {
            return Err(by_hand());
        }
        self.put(found, around, &rest)
    }

    /// The clients in a changed part of a file.
    fn check(&self, found: &Found, part: &str) -> Result<Vec<Client>, Failure> {
        let Config { policy, master_key_file, .. } = &self.config;
        Ok(config::check_clients(&found.origin.file, part, &policy.services, master_key_file)?)
    }

    /// Writes a file with another text in place of a part of it.
    fn put(&self, found: &Found, part: &Part, text: &str) -> Result<(), Failure> {
        let (old, Part { range, .. }) = (&found.text, part);
        let before = old.get(..range.start).unwrap_or_default();
        let behind = old.get(range.end..).unwrap_or_default();
        self.replace_with(&found.origin.file, &[before, text, behind])
    }

    /// Makes a file of this name and text, which isn't there yet.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] if it is there, or can't be made.
    pub(super) fn create(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        let make = || -> io::Result<NamedTempFile> {
            let mut file = hidden(&self.path)?;
            file.write_all(text.as_bytes())?;
            // The daemon reads it as a member of the folder's group. Who may not give it to that group
            // keeps it to a group of his own.
            match fchown(file.as_file(), None, Some(self.folder.metadata()?.gid())) {
                Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
            file.as_file().set_permissions(Permissions::from_mode(MODE))?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|error| cant_change(&self.path, &error))?;
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            ErrorKind::AlreadyExists => Failure::new(
                Exit::CantCreat,
                format!("{} is there already, for other clients: rename it", path.display()),
            ),
            _ => cant_change(&self.path, &error.error),
        })?;
        self.sync()?;
        Ok(path)
    }

    /// Gives a file that is there a new text, and leaves it its owner, group and mode.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] if it can't be written.
    pub(super) fn replace(&self, path: &Path, text: &str) -> Result<(), Failure> {
        self.replace_with(path, &[text])
    }

    fn replace_with(&self, path: &Path, parts: &[&str]) -> Result<(), Failure> {
        let replace = || -> io::Result<()> {
            // What a link leads to is replaced, and not the link.
            let path = fs::canonicalize(path)?;
            let old: Metadata = fs::metadata(&path)?;
            let mut file = hidden(path.parent().unwrap_or(&self.path))?;
            for part in parts {
                file.write_all(part.as_bytes())?;
            }
            fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
            file.as_file().set_permissions(old.permissions())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        replace().map_err(|error| cant_change(path, &error))?;
        self.sync()
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] if it can't be removed.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Failure> {
        fs::remove_file(path).map_err(|error| cant_change(path, &error))?;
        self.sync()
    }

    /// Makes what changed in the folder outlast a power cut.
    fn sync(&self) -> Result<(), Failure> {
        self.folder.sync_all().map_err(|error| cant_change(&self.path, &error))
    }
}

/// A file that only its owner can read, and that isn't taken for a client's.
fn hidden(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".client-").suffix(".new").tempfile_in(folder)
}

fn wait_for(folder: &File, path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another knockd client has been changing {} for {} s: try again later",
                    path.display(),
                    PATIENCE.as_secs()
                );
                return Err(Failure::new(Exit::TempFail, message));
            }
            Err(TryLockError::Error(error)) => return Err(cant_change(path, &error)),
        }
    }
}

fn cant_change(path: &Path, error: &io::Error) -> Failure {
    let (exit, advice) = if error.kind() == ErrorKind::PermissionDenied {
        (Exit::NoPerm, ": run this as root")
    } else {
        (Exit::CantCreat, "")
    };
    Failure::new(exit, format!("can't change {}: {error}{advice}", path.display()))
}
