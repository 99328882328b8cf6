//! What has changed in the configuration since it was last read: the main file is read again, and of the clients'
//! files, which are told apart by their stamps, only those that differ.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use common::ServiceName;

use super::{
    Config, Environment, Mistakes,
    clients::{Clients, list},
    files,
    master::Master,
    read_settings, unknown, with_clients,
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
    /// The clients in it, each with the line of its entry.
    pub clients: Vec<(Client, u32)>,
}

/// What the configuration says now, as far as it can be another thing than before.
pub struct Changes {
    /// All of the main file, with no client.
    pub settings: Config,
    /// Files of clients that are new or have changed.
    pub read: Vec<ClientFile>,
    /// Files of clients that are gone.
    pub gone: Vec<PathBuf>,
}

/// Where the configuration is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The main file.
    pub main: PathBuf,
    /// What it takes from the environment.
    pub environment: Environment,
    /// The folder of the clients, whatever the main file says by now.
    pub folder: PathBuf,
}

/// The stamps of the clients' files as they are now.
///
/// # Errors
/// If the folder or a file of it can't be looked at.
pub fn stamps(folder: &Path) -> io::Result<Stamps> {
    let stamped = |path: PathBuf| match stamp(&path) {
        Err(error) if files::is_gone(&path, &error) => None,
        stamp => Some(stamp.map(|stamp| (path, stamp))),
    };
    list(folder)?.into_iter().filter_map(stamped).collect()
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

/// Reads the main file, and of the clients' files what differs from what is known; all of them if one of these
/// services is gone, so that whoever still names it is told. A name or a key that is in two of the files read is
/// a mistake; whether it is in a file that has not changed is for the caller to see.
///
/// # Errors
/// Every mistake in the files that were read: then nothing of them is to be used.
pub fn changes(
    places: &Places,
    known: &Stamps,
    services: &[ServiceName],
) -> Result<Changes, Mistakes> {
    let Places { main, environment, folder } = places;
    let mut mistakes = Vec::new();
    let settings = read_settings(main, environment, &mut mistakes)
        .and_then(|settings| with_clients(settings, &mut mistakes, |_, _, _| ()))
        .map(|located| located.config);
    let names: Option<Vec<ServiceName>> = settings
        .as_ref()
        .map(|config| config.policy.services.iter().map(|service| service.name).collect());
    let lacks_one = |names: &Vec<ServiceName>| services.iter().any(|it| !names.contains(it));
    let reads_all = names.as_ref().is_some_and(lacks_one);

    let _ = files::judge_folder(folder, &mut mistakes);
    let now = stamps(folder).unwrap_or_else(|error| {
        mistakes.push(files::unreadable(folder, &error));
        Stamps::new()
    });
    let mut clients = Clients::new(
        names.as_deref(),
        Master::of(settings.as_ref().map(|config| config.master_key_file.as_path())),
    );
    let mut read = Vec::new();
    let is_new = |path: &PathBuf, stamp: &Stamp| reads_all || known.get(path) != Some(stamp);
    for (path, stamp) in now.iter().filter(|(path, stamp)| is_new(path, stamp)) {
        clients.read_file(path, &mut mistakes);
        let lines = clients.origins.drain(..).map(|origin| origin.line);
        let clients = std::mem::take(&mut clients.clients).into_iter().zip(lines).collect();
        read.push(ClientFile { path: path.clone(), stamp: *stamp, clients });
    }
    let gone = known.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
    match (Mistakes::sorted(mistakes), settings) {
        (None, Some(settings)) => Ok(Changes { settings, read, gone }),
        (Some(mistakes), _) => Err(mistakes),
        (None, None) => Err(unknown(main)),
    }
}
