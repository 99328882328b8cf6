//! Finds the profile: in the system's file, then the user's, or in the one that `--config` names.

use std::{
    env, fmt,
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

    /// The profile of this name, or else the only one there is.
    pub(crate) fn profile(&self, wanted: Option<&ProfileName>) -> Result<Found, Error> {
        let (mut profiles, denied) = self.read()?;
        let found = match wanted {
            Some(wanted) => profiles.iter().position(|named| named.name == *wanted),
            None if profiles.len() > 1 => {
                let names = names(&profiles);
                return Err(Error::Usage(format!("which profile? Name one of: {names}")));
            }
            None => profiles.len().checked_sub(1),
        };
        match (found, wanted) {
            (Some(index), _) => Ok(Found { named: Some(profiles.swap_remove(index)), denied }),
            (None, None) => Ok(Found { named: None, denied }),
            (None, Some(wanted)) => {
                let what = format!("there is no profile \"{wanted}\"");
                Err(self.missing(&what, &profiles, denied.as_deref()))
            }
        }
    }

    /// Says what isn't there, where it was looked for, and how to come by it.
    pub(crate) fn missing(&self, what: &str, others: &[Named], denied: Option<&Path>) -> Error {
        if let Some(denied) = denied {
            let denied = denied.display();
            return Error::Permission(format!(
                "{what} that this user may read; {denied} is there: run knock as the user whom it belongs to, or write a file of this user's own"
            ));
        }
        let advice = if others.is_empty() {
            ADVICE.to_owned()
        } else {
            format!("there are: {}", names(others))
        };
        Error::Config(format!("{what} in {self}: {advice}"))
    }

    /// All profiles, and a file that is there but not for this user to read.
    fn read(&self) -> Result<(Vec<Named>, Option<PathBuf>), Error> {
        let mut profiles: Vec<Named> = Vec::new();
        let mut denied = None;
        match self {
            Self::Named(path) => {
                let file = PrivateFile::read(path).map_err(|error| unreadable(path, &error))?;
                profiles = profiles_of(&file)?;
            }
            Self::Usual(paths) => {
                for path in paths {
                    match PrivateFile::read(path) {
                        Ok(file) => {
                            for later in profiles_of(&file)? {
                                profiles.retain(|earlier| earlier.name != later.name);
                                profiles.push(later);
                            }
                        }
                        Err(ReadError::Missing) => {}
                        // The system's file is often for root alone; a user's own file is enough then.
                        Err(ReadError::Denied(_)) => denied = Some(path.clone()),
                        Err(error @ ReadError::Other(_)) => return Err(unreadable(path, &error)),
                    }
                }
            }
        }
        Ok((profiles, denied))
    }
}

/// What the search came to.
#[derive(Debug)]
pub(crate) struct Found {
    /// `None` if there is no profile at all, and none was asked for.
    pub(crate) named: Option<Named>,
    /// A file that is there but not for this user to read.
    pub(crate) denied: Option<PathBuf>,
}

const ADVICE: &str =
    "`knockd client add NAME --server HOST:PORT …` on the broker's host prints one to put there";

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    file.require_unchanged_by_others()?;
    let text = file.text().map_err(|wrong| at(wrong.line(), &wrong.to_string()))?;
    let profiles =
        profile::parse(text, file.path()).map_err(|mistake| at(mistake.line, &mistake.message))?;
    if profiles.iter().any(|named| matches!(named.profile.key, Some(KeySource::Inline(_)))) {
        file.require_private()?;
    }
    Ok(profiles)
}

fn unreadable(path: &Path, error: &ReadError) -> Error {
    let path = path.display();
    match error {
        ReadError::Missing => Error::Config(format!("{path}: there is no such file: {ADVICE}")),
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Two files in a folder, read in this order.
    fn places(system: Option<&str>, user: Option<&str>) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let paths = [("system.toml", system), ("user.toml", user)].map(|(name, text)| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            path
        });
        (folder, Places::Usual(paths.into()))
    }

    /// The profile's name and server, or the error's exit code and text.
    fn search(
        places: &Places,
        wanted: Option<&str>,
    ) -> Result<Option<(String, String)>, (u8, String)> {
        let wanted = wanted.map(|name| name.parse().unwrap());
        let found = places
            .profile(wanted.as_ref())
            .map_err(|error| (error.code().number(), error.to_string()))?;
        Ok(found
            .named
            .map(|named| (named.name.to_string(), named.profile.server.unwrap().to_string())))
    }

    const A: &str = "[a]\nserver = \"system\"\n";
    const A_AND_B: &str = "[a]\nserver = \"user:1\"\n[b]\nserver = \"user:2\"\n";

    fn some(name: &str, server: &str) -> Option<(String, String)> {
        Some((name.to_owned(), server.to_owned()))
    }

    #[test]
    fn the_users_profile_wins_over_the_systems_of_the_same_name() {
        let (_folder, places) = places(Some(A), Some(A_AND_B));
        assert_eq!(search(&places, Some("a")).unwrap(), some("a", "user:1"));
        assert_eq!(search(&places, Some("b")).unwrap(), some("b", "user:2"));
    }

    #[test]
    fn the_only_profile_needs_no_name_wherever_it_is() {
        for (system, user) in [(Some(A), None), (None, Some(A)), (Some(A), Some(A))] {
            let (_folder, places) = places(system, user);
            assert_eq!(search(&places, None).unwrap(), some("a", "system:62201"));
        }
    }

    #[test]
    fn of_several_profiles_none_is_guessed() {
        let (_folder, places) = places(Some(A), Some(A_AND_B));
        assert_eq!(search(&places, None), Err((64, "which profile? Name one of: a, b".into())));
    }

    #[test]
    fn an_unknown_profile_is_answered_with_the_places_and_the_names_there_are() {
        let (folder, two) = places(None, Some(A_AND_B));
        let (code, text) = search(&two, Some("c")).unwrap_err();
        assert_eq!(code, 78);
        for part in ["\"c\"", "system.toml or ", "user.toml", "there are: a, b"] {
            assert!(text.contains(part), "{part:?} isn't in {text:?}");
        }
        drop(folder);
        let (code, text) = search(&two, Some("c")).unwrap_err();
        assert_eq!(code, 78);
        assert!(text.contains("knockd client add"), "{text}");
        assert_eq!(search(&two, None), Ok(None));
    }

    #[test]
    fn a_file_named_on_the_command_line_must_be_there_and_is_read_alone() {
        let (folder, _) = places(Some(A), Some(A_AND_B));
        let named = Places::Named(folder.path().join("system.toml"));
        assert_eq!(search(&named, None).unwrap(), some("a", "system:62201"));
        let missing = Places::Named(folder.path().join("missing.toml"));
        assert_eq!(search(&missing, None).unwrap_err().0, 78);
    }

    #[test]
    fn a_mistake_is_located_by_file_and_line_in_whichever_file_it_is() {
        let (_folder, places) = places(Some("[a]\n\nserver = 1\n"), Some(A_AND_B));
        let (code, text) = search(&places, Some("b")).unwrap_err();
        assert_eq!(code, 78);
        assert!(text.contains("system.toml:3: server"), "{text}");
    }

    #[test]
    fn a_file_that_this_user_may_not_read_is_named_if_it_could_have_held_the_profile() {
        let (folder, places) = places(None, Some(A));
        let denied = folder.path().join("system.toml");
        let error = places.missing("there is no profile \"b\"", &[], Some(&denied));
        assert_eq!(error.code().number(), 77);
        assert!(error.to_string().contains("system.toml is there"), "{error}");
    }

    #[test]
    fn a_file_that_others_can_write_is_not_followed_with_a_key_in_it_or_without() {
        let (folder, places) = places(None, Some(A));
        let path = folder.path().join("user.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let (code, text) = search(&places, None).unwrap_err();
        assert_eq!(code, 77);
        assert!(text.contains("chmod go-w"), "{text}");
    }

    #[test]
    fn only_a_file_that_holds_a_key_must_be_private() {
        let key = "[a]\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\nserver = \"x\"\n";
        for (text, expected) in [(A, None), (key, Some(77))] {
            let (folder, places) = places(None, Some(text));
            let path = folder.path().join("user.toml");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(search(&places, None).err().map(|(code, _)| code), expected);
        }
    }
}
