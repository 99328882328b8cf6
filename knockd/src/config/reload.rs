//! What has changed in the clients' folder since it was last read: files are told apart by their stamps, and
//! only those that differ are read again.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use common::ServiceName;

use super::{
    Mistakes,
    clients::{Clients, list},
    files,
};
use crate::gate::policy::Client;

/// What tells a file's content from an earlier one, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// The files of the clients, each with its stamp.
pub type Stamps = BTreeMap<PathBuf, Stamp>;

/// A file of clients that is new or has changed.
pub struct ClientFile {
    /// The file.
    pub path: PathBuf,
    /// Its stamp, taken before it was read: a change in between shows the next time.
    pub stamp: Stamp,
    /// The clients in it.
    pub clients: Vec<Client>,
}

/// What has changed in the clients' folder.
pub struct ClientChanges {
    /// Files that are new or have changed.
    pub read: Vec<ClientFile>,
    /// Files that are gone.
    pub gone: Vec<PathBuf>,
}

/// The stamps of the clients' files as they are now.
///
/// # Errors
/// If the folder or a file of it can't be looked at.
pub fn stamps(folder: &Path) -> io::Result<Stamps> {
    list(folder)?.into_iter().map(|path| stamp(&path).map(|stamp| (path, stamp))).collect()
}

/// The stamp of a file as it is now.
///
/// # Errors
/// If it can't be looked at.
pub fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Reads what differs from what is known. A name or a key that is in two of the files read is a mistake;
/// whether it is in a file that has not changed is for the caller to see.
///
/// # Errors
/// Every mistake in the files that were read: then nothing of them is to be used.
pub fn changes(
    folder: &Path,
    known: &Stamps,
    services: &[ServiceName],
) -> Result<ClientChanges, Mistakes> {
    let unreadable = |error| Mistakes::one(files::unreadable(folder, &error));
    let now = stamps(folder).map_err(unreadable)?;
    let mut mistakes = Vec::new();
    let mut clients = Clients::new(Some(services));
    let mut read = Vec::new();
    for (path, stamp) in now.iter().filter(|(path, stamp)| known.get(*path) != Some(*stamp)) {
        clients.read_file(path, &mut mistakes);
        let clients = std::mem::take(&mut clients.clients);
        read.push(ClientFile { path: path.clone(), stamp: *stamp, clients });
    }
    let gone = known.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
    match Mistakes::sorted(mistakes) {
        Some(mistakes) => Err(mistakes),
        None => Ok(ClientChanges { read, gone }),
    }
}
