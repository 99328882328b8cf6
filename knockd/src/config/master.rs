//! The secret that keys of clients are derived from: one file, read when the first such client is.
//!
//! # Security considerations
//! Whoever can read the file can knock as every client whose key is derived: it is judged as a file of clients is.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use common::{MasterKey, Secret};

use super::{
    files::{self, Guard},
    mistake::{Mistake, MistakeKind},
    secret,
    source::Wrong,
};

/// The master key, when it is needed.
pub(super) struct Master {
    state: State,
    /// What was wrong with its file, until somebody tells it.
    pub(super) mistakes: Vec<Mistake>,
}

enum State {
    /// There is no file to read it from.
    None,
    /// Where its file is isn't known, or something is wrong with it, which is told once.
    Wrong,
    Unread(PathBuf),
    Is(MasterKey),
}

impl Master {
    /// That of a file; `None` if the configuration is wrong about where it is.
    pub(super) fn of(file: Option<&Path>) -> Self {
        let state = file.map_or(State::Wrong, |file| State::Unread(file.to_owned()));
        Self { state, mistakes: Vec::new() }
    }

    /// There is none.
    pub(super) const fn none() -> Self {
        Self { state: State::None, mistakes: Vec::new() }
    }

    /// The key of a client; `None` if the master key's file is wrong.
    pub(super) fn key(
        &mut self,
        name: &str,
        generation: NonZeroU32,
    ) -> Option<Result<Secret, Wrong>> {
        if let State::Unread(file) = &self.state {
            self.state = match read(file, &mut self.mistakes) {
                Some(master) => State::Is(master),
                None => State::Wrong,
            };
        }
        match &self.state {
            State::Is(master) => {
                let key = master.secret(name, generation);
                Some(key.map_err(|error| Wrong::new(format!("can't be had: {error}"))))
            }
            State::None => Some(Err(Wrong::new("is \"master\", and there is no master key"))),
            State::Unread(_) | State::Wrong => None,
        }
    }
}

fn read(file: &Path, mistakes: &mut Vec<Mistake>) -> Option<MasterKey> {
    let known = mistakes.len();
    let text = files::read(file, Guard::Keys, mistakes);
    if mistakes.len() > known {
        return None;
    }
    let Some(text) = text else {
        let name = files::quoted(file);
        let instead = format!(
            "copy the master key there, or make one with `knock keygen --out {name} && chgrp knockd-keys {name} && chmod 0640 {name}`"
        );
        let what = "a client has key-from = \"master\", and this file isn't there";
        mistakes.push(Mistake::of_file(file, MistakeKind::NoInput, what, instead));
        return None;
    };
    let line = str::from_utf8(&text).unwrap_or("?");
    let line = line.strip_suffix('\n').unwrap_or(line);
    match secret::parse(line) {
        Ok(secret) => Some(MasterKey::new(&secret)),
        Err(wrong) => {
            let what = format!("the master key {}", wrong.what);
            let instead = "write one line of 44 characters: `knock keygen` makes such a key";
            mistakes.push(Mistake::at(file, 1, "", what, instead));
            None
        }
    }
}
