//! Which clients are served, and the files that they are in: a change of one file changes its clients, and
//! nobody else.
//!
//! # Security considerations
//! - A change is applied whole or not at all: a file with a mistake, or a name or key that another client
//!   has, leaves everything as it was.
//! - A client that is gone, switched off or no longer allowed a service loses its grants at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
};

use common::{ClientKeys, Day, Realm, ServiceName};

use crate::{
    config::{
        Mistakes, Origin,
        reload::{self, ClientChanges, ClientFile, Stamp, Stamps},
    },
    gate::directory::{ClientId, Directory, Enrolment},
};

/// The clients' files, and who is in each.
pub struct Roster {
    folder: PathBuf,
    services: Vec<ServiceName>,
    realm: Realm,
    files: BTreeMap<PathBuf, (Stamp, Vec<ClientId>)>,
}

/// What it takes to read what has changed: work for another thread.
pub struct Reading {
    folder: PathBuf,
    services: Vec<ServiceName>,
    realm: Realm,
    known: Stamps,
}

/// What has changed, with the keys derived.
pub struct Read {
    files: Vec<(PathBuf, Stamp, Vec<Enrolment>)>,
    gone: Vec<PathBuf>,
}

/// What a change came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Clients that are new.
    pub added: Vec<ClientId>,
    /// Clients whose entries differ from before.
    pub changed: Vec<ClientId>,
    /// Clients that are gone.
    pub removed: Vec<ClientId>,
}

/// Why a change was not applied.
#[derive(Debug, thiserror::Error)]
pub enum NotApplied {
    /// The files are wrong.
    #[error("{0}")]
    Mistakes(Mistakes),
    /// They could not be read.
    #[error("reading them failed: {0}")]
    Failed(String),
    /// A client has a name that is taken.
    #[error("{file}: {name} is the name of a client in another file; give each a name of its own")]
    NameTaken {
        /// The file that has it again.
        file: PathBuf,
        /// The name.
        name: String,
    },
    /// A client has a key that is taken.
    #[error("{file}: {name} has the key of {other}; make it a key of its own")]
    KeyTaken {
        /// The file that has it again.
        file: PathBuf,
        /// Whose entry it is in.
        name: String,
        /// Whose key it is.
        other: String,
    },
}

impl Reading {
    /// Reads what has changed, and derives the keys.
    ///
    /// # Errors
    /// Every mistake in the files that were read.
    pub fn read(&self) -> Result<Read, NotApplied> {
        let ClientChanges { read, gone } =
            reload::changes(&self.folder, &self.known, &self.services)
                .map_err(NotApplied::Mistakes)?;
        let enrol = |client: crate::gate::policy::Client| {
            let keys = ClientKeys::derive(&client.secret, &self.realm);
            Enrolment { client, keys }
        };
        let files = read
            .into_iter()
            .map(|ClientFile { path, stamp, clients }| {
                (path, stamp, clients.into_iter().map(enrol).collect())
            })
            .collect();
        Ok(Read { files, gone })
    }
}

impl Roster {
    /// The files of the clients that a directory was made from, in its order. `stamps` were taken before
    /// the files were read.
    #[must_use]
    pub fn new(
        folder: PathBuf,
        services: Vec<ServiceName>,
        realm: Realm,
        stamps: &Stamps,
        origins: &[Origin],
        directory: &Directory,
    ) -> Self {
        let mut files: BTreeMap<PathBuf, (Stamp, Vec<ClientId>)> =
            stamps.iter().map(|(path, stamp)| (path.clone(), (*stamp, Vec::new()))).collect();
        for (origin, (client, _)) in origins.iter().zip(directory.clients()) {
            if let Some((_, clients)) = files.get_mut(&*origin.file) {
                clients.push(client);
            }
        }
        Self { folder, services, realm, files }
    }

    /// What it takes to read what has changed since.
    #[must_use]
    pub fn reading(&self) -> Reading {
        Reading {
            folder: self.folder.clone(),
            services: self.services.clone(),
            realm: self.realm,
            known: self.files.iter().map(|(path, (stamp, _))| (path.clone(), *stamp)).collect(),
        }
    }

    /// Applies what was read to the directory. Clients that stay keep their ids, and with them their grants.
    ///
    /// # Errors
    /// [`NotApplied`]; the directory is as it was.
    pub fn apply(&mut self, read: Read, directory: &mut Directory) -> Result<Applied, NotApplied> {
        let Read { files, gone } = read;
        let former = self.former_clients(&files, &gone, directory);
        check_names(&files, &former, directory)?;
        check_keys(&files, &former, directory)?;

        let mut staying = HashSet::new();
        let mut applied = Applied::default();
        let mut replaced = Vec::new();
        let mut added = Vec::new();
        for path in &gone {
            self.files.remove(path);
        }
        for (path, stamp, enrolments) in files {
            let mut clients = Vec::new();
            for enrolment in enrolments {
                match former.get(enrolment.client.name.as_str()) {
                    None => added.push((path.clone(), enrolment)),
                    Some(client) => {
                        staying.insert(*client);
                        clients.push(*client);
                        if directory.differs(*client, &enrolment) {
                            applied.changed.push(*client);
                            replaced.push((*client, enrolment));
                        }
                    }
                }
            }
            self.files.insert(path, (stamp, clients));
        }
        applied.removed = former.into_values().filter(|client| !staying.contains(client)).collect();
        for client in &applied.removed {
            directory.remove(*client);
        }
        directory.replace(replaced);
        for (path, enrolment) in added {
            let client = directory.add(enrolment);
            applied.added.push(client);
            if let Some((_, clients)) = self.files.get_mut(&path) {
                clients.push(client);
            }
        }
        Ok(applied)
    }

    /// Who is in the files that have changed or are gone, by name, before the change.
    fn former_clients(
        &self,
        files: &[(PathBuf, Stamp, Vec<Enrolment>)],
        gone: &[PathBuf],
        directory: &Directory,
    ) -> HashMap<String, ClientId> {
        let paths = files.iter().map(|(path, ..)| path).chain(gone);
        paths
            .filter_map(|path| self.files.get(path))
            .flat_map(|(_, clients)| clients)
            .map(|client| (directory.name(*client).to_owned(), *client))
            .collect()
    }
}

/// Refuses a name that a client of another file has.
fn check_names(
    files: &[(PathBuf, Stamp, Vec<Enrolment>)],
    former: &HashMap<String, ClientId>,
    directory: &Directory,
) -> Result<(), NotApplied> {
    let new: HashMap<&str, &PathBuf> = files
        .iter()
        .flat_map(|(path, _, enrolments)| {
            enrolments.iter().map(move |enrolment| (enrolment.client.name.as_str(), path))
        })
        .filter(|(name, _)| !former.contains_key(*name))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    for (client, name) in directory.clients() {
        if let Some(file) = new.get(name).filter(|_| former.get(name) != Some(&client)) {
            return Err(NotApplied::NameTaken { file: (*file).clone(), name: name.to_owned() });
        }
    }
    Ok(())
}

/// Refuses a key that a client of another file has: it would have the same tags.
fn check_keys(
    files: &[(PathBuf, Stamp, Vec<Enrolment>)],
    former: &HashMap<String, ClientId>,
    directory: &Directory,
) -> Result<(), NotApplied> {
    let former: HashSet<ClientId> = former.values().copied().collect();
    let Some(today) = directory.first_day() else { return Ok(()) };
    for (file, _, enrolments) in files {
        for Enrolment { client, keys } in enrolments {
            let taken = [today, Day::COUNTER]
                .into_iter()
                .find_map(|day| directory.find(keys.tag(day)))
                .map(|(other, ..)| other);
            if let Some(other) = taken.filter(|other| !former.contains(other)) {
                return Err(NotApplied::KeyTaken {
                    file: file.clone(),
                    name: client.name.to_string(),
                    other: directory.name(other).to_owned(),
                });
            }
        }
    }
    Ok(())
}
