//! Which clients are served, and the files that they are in: a change of one file changes its clients, and
//! nobody else.
//!
//! # Security considerations
//! - A change is applied whole or not at all: a file with a mistake, or a name or key that another client
//!   has, leaves everything as it was.
//! - A client that is gone, switched off or no longer allowed a service loses its grants at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use common::{Day, Realm, ServiceName};

use crate::{
    config::{
        Config, Mistake, Mistakes, Origin,
        reload::{self, Changes, ClientFile, Places, Stamp, Stamps},
    },
    gate::directory::{ClientId, Directory, Enrolment},
};

/// The clients' files, and who is in each.
pub struct Roster {
    places: Places,
    services: Vec<ServiceName>,
    realm: Realm,
    files: BTreeMap<PathBuf, (Stamp, Vec<ClientId>)>,
}

/// What it takes to read what has changed: work for another thread.
pub struct Reading {
    places: Places,
    services: Vec<ServiceName>,
    realm: Realm,
    known: Stamps,
}

/// What has changed, with the keys derived.
pub struct Read {
    settings: Config,
    files: Vec<ReadFile>,
    gone: Vec<PathBuf>,
}

/// A file of clients that is new or has changed.
struct ReadFile {
    path: PathBuf,
    stamp: Stamp,
    /// Each with the line of its entry.
    enrolments: Vec<(Enrolment, u32)>,
}

/// A change with no mistake in it.
pub struct Sound {
    read: Read,
    /// Who is in the files that have changed or are gone, by name, before the change.
    former: HashMap<String, ClientId>,
}

impl Sound {
    /// The main file, with no client.
    #[must_use]
    pub const fn settings(&self) -> &Config {
        &self.read.settings
    }

    /// How many clients there will be in this directory.
    #[must_use]
    pub fn clients(&self, directory: &Directory) -> usize {
        let read: usize = self.read.files.iter().map(|file| file.enrolments.len()).sum();
        (directory.len() + read).saturating_sub(self.former.len())
    }
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
    /// The system refuses what follows from them.
    #[error("{0}")]
    System(String),
}

impl Applied {
    /// Whether no client differs from before.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Reading {
    /// Reads what has changed, and derives the keys.
    ///
    /// # Errors
    /// Every mistake in the files that were read.
    pub fn read(&self) -> Result<Read, NotApplied> {
        let Changes { settings, read, gone } =
            reload::changes(&self.places, &self.known, &self.services)
                .map_err(NotApplied::Mistakes)?;
        let enrol = |(client, line)| (Enrolment::new(client, &self.realm), line);
        let files = read
            .into_iter()
            .map(|ClientFile { path, stamp, clients }| ReadFile {
                path,
                stamp,
                enrolments: clients.into_iter().map(enrol).collect(),
            })
            .collect();
        // This thread stays for others' work when it is done.
        common::wipe_stack();
        Ok(Read { settings, files, gone })
    }
}

impl Roster {
    /// The files of the clients that a directory was made from, in its order. `stamps` were taken before
    /// the files were read.
    #[must_use]
    pub fn new(
        places: Places,
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
        Self { places, services, realm, files }
    }

    /// The main file.
    #[must_use]
    pub fn main_file(&self) -> &Path {
        &self.places.main
    }

    /// What it takes to read what has changed since.
    #[must_use]
    pub fn reading(&self) -> Reading {
        Reading {
            places: self.places.clone(),
            services: self.services.clone(),
            realm: self.realm,
            known: self.files.iter().map(|(path, (stamp, _))| (path.clone(), *stamp)).collect(),
        }
    }

    /// Compares what was read with the clients of files that have not changed.
    ///
    /// # Errors
    /// [`NotApplied::Mistakes`]: names and keys that are taken.
    pub fn check(&self, read: Read, directory: &Directory) -> Result<Sound, NotApplied> {
        let former = self.former_clients(&read, directory);
        let mut mistakes = Vec::new();
        check_names(&read.files, &former, directory, &mut mistakes);
        check_keys(&read.files, &former, directory, &mut mistakes);
        match Mistakes::sorted(mistakes) {
            Some(mistakes) => Err(NotApplied::Mistakes(mistakes)),
            None => Ok(Sound { read, former }),
        }
    }

    /// Applies it to the directory, whose services are those of the main file by then. Clients that stay keep
    /// their ids, and with them their grants.
    pub fn apply(&mut self, sound: Sound, directory: &mut Directory) -> Applied {
        let Sound { read: Read { settings, files, gone }, former } = sound;
        self.services = settings.policy.services.iter().map(|service| service.name).collect();
        let mut staying = HashSet::new();
        let mut applied = Applied::default();
        let mut replaced = Vec::new();
        let mut added = Vec::new();
        for path in &gone {
            self.files.remove(path);
        }
        for ReadFile { path, stamp, enrolments } in files {
            let mut clients = Vec::new();
            for (enrolment, _) in enrolments {
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
        // What packets of theirs have left on the stack of this thread.
        common::wipe_stack();
        for (path, enrolment) in added {
            let client = directory.add(enrolment);
            applied.added.push(client);
            if let Some((_, clients)) = self.files.get_mut(&path) {
                clients.push(client);
            }
        }
        applied
    }

    /// Who is in the files that have changed or are gone, by name, before the change.
    fn former_clients(&self, read: &Read, directory: &Directory) -> HashMap<String, ClientId> {
        let paths = read.files.iter().map(|file| &file.path).chain(&read.gone);
        paths
            .filter_map(|path| self.files.get(path))
            .flat_map(|(_, clients)| clients)
            .map(|client| (directory.name(*client).to_owned(), *client))
            .collect()
    }
}

/// Tells of names that clients of other files have.
fn check_names(
    files: &[ReadFile],
    former: &HashMap<String, ClientId>,
    directory: &Directory,
    mistakes: &mut Vec<Mistake>,
) {
    let new: HashMap<&str, (&Path, u32)> = files
        .iter()
        .flat_map(|file| file.enrolments.iter().map(|entry| (entry, &*file.path)))
        .map(|((enrolment, line), path)| (enrolment.client.name.as_str(), (path, *line)))
        .filter(|(name, _)| !former.contains_key(*name))
        .collect();
    if new.is_empty() {
        return;
    }
    for (client, name) in directory.clients() {
        if let Some((file, line)) = new.get(name).filter(|_| former.get(name) != Some(&client)) {
            let what = format!("client.name is {name}, the name of a client in another file");
            let instead = "give each client a name of its own";
            mistakes.push(Mistake::at(file, *line, "client.name", what, instead));
        }
    }
}

/// Tells of keys that clients of other files have: they would have the same tags.
fn check_keys(
    files: &[ReadFile],
    former: &HashMap<String, ClientId>,
    directory: &Directory,
    mistakes: &mut Vec<Mistake>,
) {
    let former: HashSet<ClientId> = former.values().copied().collect();
    let Some(today) = directory.first_day() else { return };
    for ReadFile { path, enrolments, .. } in files {
        for (enrolment, line) in enrolments {
            let tags = [today, Day::COUNTER].into_iter().flat_map(|day| enrolment.tags(day));
            let takers = tags.filter_map(|tag| directory.find(tag));
            for (other, ..) in takers.filter(|(other, ..)| !former.contains(other)) {
                let (name, other) = (&enrolment.client.name, directory.name(other));
                let what =
                    format!("{name} has a key of the client {other}, which is in another file");
                let instead = "make it a key of its own";
                mistakes.push(Mistake::at(path, *line, "client.key", what, instead));
            }
        }
    }
}
