//! `knock.toml`: one or more profiles, each telling where to knock, with which key, and for what.
//!
//! # Security considerations
//! A line of this file may hold a key, also one in the wrong place. So a message names the file, the
//! line and the name of a known key of the format, and never shows a value or a line.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use common::{Realm, Secret, ServiceName};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    duration::Seconds,
    endpoint::{AddressChoice, Server, ServicePort},
    key,
};

/// A profile's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProfileName(String);

/// A name that no profile can have. The form has no room for a key in base64, which ends with '='.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a profile's name is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub(crate) struct InvalidProfileName;

impl FromStr for ProfileName {
    type Err = InvalidProfileName;

    fn from_str(name: &str) -> Result<Self, InvalidProfileName> {
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if starts_well && name.len() <= 64 && name.bytes().all(well_formed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidProfileName)
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a profile's key is.
#[derive(Debug)]
pub(crate) enum KeySource {
    /// In the profile itself.
    Inline(Secret),
    /// In a file of its own; a relative name is beside the profile's file.
    File(PathBuf),
}

/// What one profile says. Everything may be left out here, since flags can say it too.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) server: Option<Server>,
    pub(crate) key: Option<KeySource>,
    pub(crate) service: Option<ServiceName>,
    pub(crate) port: Option<ServicePort>,
    pub(crate) address: Option<AddressChoice>,
    pub(crate) open_for: Option<Seconds>,
    pub(crate) realm: Option<Realm>,
}

/// A profile and its name.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: ProfileName,
    pub(crate) profile: Profile,
}

/// A mistake in the file, and the line that it is on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong, and what to write instead.
    pub(crate) message: String,
}

/// Reads all profiles of a file, in the order of their names.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Vec<Named>, Mistake> {
    let file = Source { text, folder: path.parent().unwrap_or(Path::new("")) };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        // The message comes from the grammar alone; the error's Display would show the line.
        file.mistake(at, format!("this isn't TOML: {}", error.message()))
    })?;
    document.get_ref().iter().map(|(name, table)| file.profile(name, table)).collect()
}

/// The text being read, to count lines in.
struct Source<'a> {
    text: &'a str,
    folder: &'a Path,
}

const KNOWN: &str = "server, key, key-file, service, port, address, open-for and realm";

impl Source<'_> {
    fn mistake(&self, at: usize, message: impl Into<String>) -> Mistake {
        let line_breaks = self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        Mistake { line: 1 + line_breaks, message: message.into() }
    }

    fn profile(
        &self,
        name: &Spanned<impl AsRef<str>>,
        table: &Spanned<DeValue<'_>>,
    ) -> Result<Named, Mistake> {
        let at = name.span().start;
        let Some(entries) = table.get_ref().as_table() else {
            return Err(self.mistake(
                at,
                "this stands outside of any profile: put a line with the profile's name, such as [broker], above it",
            ));
        };
        let name = name
            .get_ref()
            .as_ref()
            .parse()
            .map_err(|error: InvalidProfileName| self.mistake(at, error.to_string()))?;
        let mut profile = Profile::default();
        for (entry, value) in entries {
            match entry.get_ref().as_ref() {
                "server" => profile.server = Some(self.parsed("server", value)?),
                "key" => {
                    let secret = key::parse(self.string("key", value)?)
                        .map_err(|error| self.mistake(value.span().start, error.to_string()))?;
                    self.set_key(&mut profile, entry.span().start, KeySource::Inline(secret))?;
                }
                "key-file" => {
                    let file = self.folder.join(self.string("key-file", value)?);
                    self.set_key(&mut profile, entry.span().start, KeySource::File(file))?;
                }
                "service" => profile.service = Some(self.parsed("service", value)?),
                "port" => profile.port = Some(self.parsed("port", value)?),
                "address" => profile.address = Some(self.parsed("address", value)?),
                "open-for" => profile.open_for = Some(self.parsed("open-for", value)?),
                "realm" => {
                    let realm = Realm::new(self.string("realm", value)?)
                        .map_err(|error| self.mistake(value.span().start, error.to_string()))?;
                    profile.realm = Some(realm);
                }
                unknown => return Err(self.unknown(entry.span().start, unknown)),
            }
        }
        Ok(Named { name, profile })
    }

    fn set_key(&self, profile: &mut Profile, at: usize, key: KeySource) -> Result<(), Mistake> {
        if profile.key.replace(key).is_some() {
            return Err(self.mistake(
                at,
                "this profile has both key and key-file, and one of them is enough: delete the other",
            ));
        }
        Ok(())
    }

    fn string<'v>(&self, name: &str, value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, Mistake> {
        value.get_ref().as_str().ok_or_else(|| {
            self.mistake(value.span().start, format!("{name} is a text: put it in quotes"))
        })
    }

    fn parsed<T>(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<T, Mistake>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.string(name, value)?
            .parse()
            .map_err(|error| self.mistake(value.span().start, format!("{name}: {error}")))
    }

    /// Shows the unknown name only if it looks like a misspelt one, and not like a stray key.
    fn unknown(&self, at: usize, name: &str) -> Mistake {
        let harmless = name.len() <= 16
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte));
        let shown = if harmless { format!(" \"{name}\"") } else { String::new() };
        self.mistake(at, format!("unknown key{shown} in a profile: the known ones are {KNOWN}"))
    }
}
