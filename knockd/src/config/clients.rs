//! The folder of the clients: every `*.toml` in it, one file at a time.
//!
//! # Security considerations
//! No two clients share a name or a key. To find out, a 128-bit keyed hash (SipHash with random keys of
//! this run) of each is kept and no copy of the key; it is dropped when the last file is read.

use std::{
    collections::{HashMap, hash_map},
    ffi::OsStr,
    fs,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use common::ServiceName;

use super::{
    Origin,
    entry::{self, Read, ServiceLists},
    files::{self, Guard},
    keys::{CLIENT, CLIENT_NAME, KEY, OLD_KEY},
    master::Master,
    mistake::{Mistake, MistakeKind},
    section::Section,
    source::{Report, Wrong},
};
use crate::gate::policy::{Client, ClientName};

/// The clients read so far, and what the next one must differ from.
pub(super) struct Clients<'s> {
    /// The names of the services; `None` if they are wrong themselves.
    services: Option<&'s [ServiceName]>,
    names: Seen,
    keys: Seen,
    service_lists: ServiceLists,
    /// What keys are derived from, where one is.
    pub(super) master: Master,
    /// Of the clients whose keys are derived: the generation of each.
    pub(super) derived: HashMap<ClientName, NonZeroU32>,
    pub(super) clients: Vec<Client>,
    /// Where each of them is.
    pub(super) origins: Vec<Origin>,
}

impl<'s> Clients<'s> {
    pub(super) fn new(services: Option<&'s [ServiceName]>, master: Master) -> Self {
        Self {
            services,
            names: Seen::default(),
            keys: Seen::default(),
            service_lists: ServiceLists::default(),
            master,
            derived: HashMap::new(),
            clients: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Reads every file of the folder, in the order of their names.
    pub(super) fn read_folder(&mut self, folder: &Path, mistakes: &mut Vec<Mistake>) {
        self.read_folder_but(folder, None, mistakes);
    }

    /// Reads every file of the folder but one, in the order of their names.
    pub(super) fn read_folder_but(
        &mut self,
        folder: &Path,
        but: Option<&Path>,
        mistakes: &mut Vec<Mistake>,
    ) {
        if files::judge_folder(folder, mistakes).is_none() {
            return;
        }
        let files = match list(folder) {
            Ok(files) => files,
            Err(error) => {
                mistakes.push(files::unreadable(folder, &error));
                return;
            }
        };
        for file in files.into_iter().filter(|file| Some(file.as_path()) != but) {
            self.read_file(&file, mistakes);
        }
    }

    /// Reads one file.
    pub(super) fn read_file(&mut self, file: &Path, mistakes: &mut Vec<Mistake>) {
        if let Some(bytes) = files::read(file, Guard::Keys, mistakes) {
            self.read_bytes(file, &bytes, mistakes);
        }
    }

    /// Reads the content of one file.
    pub(super) fn read_bytes(&mut self, file: &Path, bytes: &[u8], mistakes: &mut Vec<Mistake>) {
        match str::from_utf8(bytes) {
            Ok(text) => self.read_text(file, text, mistakes),
            Err(error) => mistakes.push(not_utf8(file, bytes, error.valid_up_to())),
        }
    }

    /// Reads the text of one file.
    pub(super) fn read_text(&mut self, file: &Path, text: &str, mistakes: &mut Vec<Mistake>) {
        let mut report = Report::new(file, text, mistakes);
        let Some(table) = report.parse(text) else { return };
        let mut section = Section::new(&mut report, "", &table, 0);
        section.tables(CLIENT, |table| {
            let read = entry::read(table, self.services, &mut self.master);
            self.take(table, read);
        });
        section.finish();
        mistakes.append(&mut self.master.mistakes);
    }

    /// Keeps an entry, if nothing is wrong with it and it shares neither name nor key with another.
    fn take(&mut self, table: &mut Section<'_, '_, '_>, read: Read) {
        let origin = table.origin(table.at());
        let mut shares = false;
        if let Some(name) = &read.name
            && let Some(first) = self.names.insert(&name.value, &origin)
        {
            let what = format!("is {}, as it is at {first}", name.value);
            let wrong = Wrong::with(what, "give each client a name of its own");
            table.wrong(&CLIENT_NAME, name.at, wrong);
            shares = true;
        }
        for (key, secret) in [(&KEY, &read.secret), (&OLD_KEY, &read.old_secret)] {
            if let Some(secret) = secret
                && let Some(first) = self.keys.insert(secret.value.expose(), &origin)
            {
                let what = format!("is the same as that of the client at {first}");
                let instead =
                    "make one with `knockd client add NAME --service SERVICE` for this client";
                table.wrong(key, secret.at, Wrong::with(what, instead));
                shares = true;
            }
        }
        if let (
            Read {
                name: Some(name),
                secret: Some(secret),
                old_secret,
                generation,
                rest: Some(rest),
            },
            false,
        ) = (read, shares)
        {
            if let Some(generation) = generation {
                self.derived.insert(name.value.clone(), generation);
            }
            let client = rest.into_client(
                name.value,
                secret.value,
                old_secret.map(|old| old.value),
                &mut self.service_lists,
            );
            self.clients.push(client);
            self.origins.push(origin);
        }
    }
}

/// Things that must not come twice, as keyed hashes, and where each was first.
///
/// Two different things pass for the same with a probability of 10^-27 for a million of them.
#[derive(Default)]
struct Seen {
    halves: [RandomState; 2],
    first: HashMap<[u64; 2], Origin>,
}

impl Seen {
    /// Adds a thing; the place of the first one of its kind if there was one.
    fn insert(&mut self, thing: &impl Hash, origin: &Origin) -> Option<&Origin> {
        let [a, b] = &self.halves;
        match self.first.entry([a.hash_one(thing), b.hash_one(thing)]) {
            hash_map::Entry::Occupied(entry) => Some(entry.into_mut()),
            hash_map::Entry::Vacant(entry) => {
                entry.insert(origin.clone());
                None
            }
        }
    }
}

/// The files of the folder that clients are in: `*.toml`, and not hidden.
pub(super) fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        if path.extension() == Some(OsStr::new("toml")) && !hidden {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The mistake of a file that isn't text, at the first byte that shows it.
pub(super) fn not_utf8(file: &Path, bytes: &[u8], valid: usize) -> Mistake {
    let before = bytes.iter().take(valid).filter(|byte| **byte == b'\n').count();
    let mistake = Mistake::of_file(
        file,
        MistakeKind::Content,
        "there is a byte that isn't UTF-8 text",
        "write the file in UTF-8",
    );
    Mistake { line: u32::try_from(before + 1).ok(), ..mistake }
}
