//! Finds the profile: in the system's file, then the user's, or in the one that `--config` names.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    exit::Error,
    private_file::{PrivateFile, ReadError},
    profile::{self, KeySource, Named, ProfileName},
};

const SYSTEM_FILE: &str = "/etc/knock/knock.toml";

/// The files to read, in this order, and what it means if one isn't there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// `--config`: this file alone, and it must be there.
    Named(PathBuf),
    /// The usual files; a later one's profile wins over an earlier one's of the same name.
    Usual(Vec<PathBuf>),
}

impl Places {
    /// The file that `--config` names, or else the usual ones.
    pub(crate) fn new(named: Option<PathBuf>) -> Self {
        // XDG Base Directory Specification: a relative path is invalid and must be ignored.
        let absolute =
            |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        named.map_or_else(
            || {
                let config = absolute("XDG_CONFIG_HOME")
                    .or_else(|| absolute("HOME").map(|home| home.join(".config")));
                let user = config.map(|config| config.join("knock/knock.toml"));
                Self::Usual([PathBuf::from(SYSTEM_FILE)].into_iter().chain(user).collect())
            },
            Self::Named,
        )
    }

    /// The profile of this name, or the only one there is; `None` if there is none at all and none was
    /// asked for.
    pub(crate) fn profile(&self, wanted: Option<&ProfileName>) -> Result<Option<Named>, Error> {
        let Found { mut profiles, denied } = self.read()?;
        let Some(wanted) = wanted else {
            let only = profiles.pop();
            if profiles.is_empty() {
                return Ok(only);
            }
            profiles.extend(only);
            return Err(Error::Usage(format!("which profile? Name one of: {}", names(&profiles))));
        };
        let found = profiles.iter().position(|profile| profile.name == *wanted);
        if let Some(index) = found {
            return Ok(Some(profiles.swap_remove(index)));
        }
        Err(Error::Config(format!(
            "there is no profile \"{wanted}\" in {}{}. {}",
            self,
            denied.map_or_else(String::new, |path| format!(
                " ({} is there, and may not be read by this user)",
                path.display()
            )),
            if profiles.is_empty() {
                "`knockd client add NAME --server HOST:PORT …` on the broker's host prints one to put there".to_owned()
            } else {
                format!("There are: {}", names(&profiles))
            }
        )))
    }

    fn read(&self) -> Result<Found, Error> {
        let mut found = Found { profiles: Vec::new(), denied: None };
        match self {
            Self::Named(path) => {
                let file = PrivateFile::read(path).map_err(|error| unreadable(path, error))?;
                found.profiles = profiles_of(&file)?;
            }
            Self::Usual(paths) => {
                for path in paths {
                    match PrivateFile::read(path) {
                        Ok(file) => {
                            for profile in profiles_of(&file)? {
                                found.profiles.retain(|earlier| earlier.name != profile.name);
                                found.profiles.push(profile);
                            }
                        }
                        Err(ReadError::Missing) => {}
                        // The system's file is often for root alone; a user's own file is enough then.
                        Err(ReadError::Denied(_)) => found.denied = Some(path.clone()),
                        Err(error @ ReadError::Other(_)) => return Err(unreadable(path, error)),
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What the files hold.
struct Found {
    profiles: Vec<Named>,
    /// A file that this user may not read.
    denied: Option<PathBuf>,
}

impl std::fmt::Display for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(path) => path.display().fmt(f),
            Self::Usual(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&paths.join(" or "))
            }
        }
    }
}

fn profiles_of(file: &PrivateFile) -> Result<Vec<Named>, Error> {
    let at = |line: usize, message: &str| {
        Error::Config(format!("{}:{line}: {message}", file.path().display()))
    };
    let text = file.text().map_err(|line| at(line, "this isn't UTF-8 text"))?;
    let profiles =
        profile::parse(text, file.path()).map_err(|mistake| at(mistake.line, &mistake.message))?;
    if profiles.iter().any(|named| matches!(named.profile.key, Some(KeySource::Inline(_)))) {
        file.require_private()?;
    }
    Ok(profiles)
}

fn unreadable(path: &Path, error: ReadError) -> Error {
    let path = path.display();
    match error {
        ReadError::Missing => Error::Config(format!(
            "{path}: there is no such file: `knockd client add NAME --server HOST:PORT …` on the broker's host prints one"
        )),
        ReadError::Denied(error) => Error::Permission(format!(
            "{path} can't be read: {error}: run knock as the user whom the file belongs to"
        )),
        ReadError::Other(error) => Error::Config(format!("{path} can't be read: {error}")),
    }
}

fn names(profiles: &[Named]) -> String {
    let names: Vec<_> = profiles.iter().map(|profile| profile.name.to_string()).collect();
    names.join(", ")
}
