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
pub struct ProfileName(String);

/// A name that no profile can have. The form has no room for a key in base64, which ends with '='.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a profile's name is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub struct InvalidProfileName;

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
pub enum KeySource {
    /// In the profile itself.
    Inline(Secret),
    /// In a file of its own; a relative name is beside the profile's file.
    File(PathBuf),
}

/// What keeps the device's packets from being accepted twice, as in the client's entry on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockChoice {
    /// The time.
    Utc,
    /// A number that rises with every packet, and the file that it is in, if the profile says where; a relative name
    /// is beside the profile's file.
    Counter(Option<PathBuf>),
}

/// What one profile says. Everything may be left out here, since flags can say it too.
#[derive(Debug, Default)]
pub struct Profile {
    /// Where to knock.
    pub server: Option<Server>,
    /// What to seal with.
    pub key: Option<KeySource>,
    /// What to ask for; `None` for every service that the client may open.
    pub service: Option<ServiceName>,
    /// What `--wait` probes.
    pub port: Option<ServicePort>,
    /// Whom the door is to open for.
    pub address: Option<AddressChoice>,
    /// For how long.
    pub open_for: Option<Seconds>,
    /// As in the client's entry.
    pub clock: Option<ClockChoice>,
    /// As in knockd.toml.
    pub realm: Option<Realm>,
}

/// A profile and its name.
#[derive(Debug)]
pub struct Named {
    /// What stands in the brackets.
    pub name: ProfileName,
    /// What stands below them.
    pub profile: Profile,
}

/// A mistake in the file, and the line that it is on.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Reads all profiles of a file, in the order of their names. Nothing is opened: `path` is where the text
/// is from, and what a key file's name is relative to.
///
/// # Errors
/// The first [`Mistake`] in it.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Named>, Mistake> {
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

const KNOWN: &str =
    "server, key, key-file, service, port, address, open-for, clock, counter-file and realm";

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
        let mut counter_file = None;
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
                "clock" => {
                    profile.clock = Some(match self.string("clock", value)? {
                        "utc" => ClockChoice::Utc,
                        "counter" => ClockChoice::Counter(None),
                        _ => {
                            let message =
                                "clock: it is utc, or counter for a device without a clock";
                            return Err(self.mistake(value.span().start, message));
                        }
                    });
                }
                "counter-file" => {
                    let file = self.string("counter-file", value)?;
                    if key::parse(file).is_ok() {
                        let message = "counter-file holds a key where the name of a file belongs";
                        return Err(self.mistake(value.span().start, message));
                    }
                    let file = self.folder.join(file);
                    counter_file = Some((entry.span().start, file));
                }
                "realm" => {
                    let realm = Realm::new(self.string("realm", value)?)
                        .map_err(|error| self.mistake(value.span().start, error.to_string()))?;
                    profile.realm = Some(realm);
                }
                unknown => return Err(self.unknown(entry.span().start, unknown, value)),
            }
        }
        match (counter_file, &mut profile.clock) {
            (None, _) => {}
            (Some((_, file)), Some(ClockChoice::Counter(place))) => *place = Some(file),
            (Some((at, _)), _) => {
                let message =
                    "counter-file is for clock = \"counter\", which this profile doesn't have";
                return Err(self.mistake(at, message));
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
    fn unknown(&self, at: usize, name: &str, value: &Spanned<DeValue<'_>>) -> Mistake {
        // [press-17.example.com] is a table within a table.
        if value.get_ref().as_table().is_some() {
            return self.mistake(
                at,
                "a profile's name with a dot in it stands in quotes, such as [\"press-17.example.com\"]",
            );
        }
        let harmless = name.len() <= 16
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_".contains(&byte));
        let shown = if harmless { format!(" \"{name}\"") } else { String::new() };
        self.mistake(at, format!("unknown key{shown} in a profile: the known ones are {KNOWN}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn parse_text(text: &str) -> Result<Vec<Named>, Mistake> {
        parse(text, Path::new("/etc/knock/knock.toml"))
    }

    #[test]
    fn every_key_of_the_format_is_read() {
        let text = format!(
            "# comment\n[broker]\nserver = \"broker.example.com:62201\"\nkey = \"{KEY}\"\nservice = \"mqtts\"\n\
             port = \"tcp/8883\"\naddress = \"observed\"\nopen-for = \"30s\"\nrealm = \"plant 7\"\n\
             clock = \"counter\"\ncounter-file = \"count\"\n"
        );
        let profiles = parse_text(&text).unwrap();
        let [Named { name, profile }] = profiles.as_slice() else { panic!("{profiles:?}") };
        assert_eq!(name.to_string(), "broker");
        assert_eq!(profile.server, "broker.example.com:62201".parse().ok());
        assert_eq!(profile.service, "mqtts".parse().ok());
        assert_eq!(profile.port, "tcp/8883".parse().ok());
        assert_eq!(profile.address, Some(AddressChoice::Observed));
        assert_eq!(profile.open_for, "30s".parse().ok());
        assert_eq!(profile.realm, Realm::new("plant 7").ok());
        let counter = Path::new("/etc/knock/count").to_owned();
        assert_eq!(profile.clock, Some(ClockChoice::Counter(Some(counter))));
        let Some(KeySource::Inline(secret)) = &profile.key else { panic!("no key") };
        assert!(secret.is_same(&key::parse(KEY).unwrap()));
    }

    #[test]
    fn a_key_files_relative_name_is_beside_the_profiles_file() {
        for (name, path) in [("key", "/etc/knock/key"), ("/run/key", "/run/key")] {
            let profiles = parse_text(&format!("[a]\nkey-file = \"{name}\"\n")).unwrap();
            let [Named { profile, .. }] = profiles.as_slice() else { panic!("{profiles:?}") };
            assert!(matches!(&profile.key, Some(KeySource::File(file)) if file == Path::new(path)));
        }
    }

    #[test]
    fn a_name_from_an_inventory_is_a_profiles_name_and_lines_may_end_as_on_windows() {
        let text =
            "[\"press-17.example.com\"]\r\nserver = \"x\"\r\n\r\n[Press_18]\r\nserver = \"y\"\r\n";
        let names: Vec<_> =
            parse_text(text).unwrap().iter().map(|it| it.name.to_string()).collect();
        assert_eq!(names, ["Press_18", "press-17.example.com"]);
        let long = "x".repeat(64);
        assert_eq!(parse_text(&format!("[\"{long}\"]\n")).unwrap().len(), 1);
    }

    #[test]
    fn a_file_may_hold_several_profiles_or_none() {
        assert_eq!(parse_text("[b]\n[a]\n").unwrap().len(), 2);
        assert_eq!(parse_text("").unwrap().len(), 0);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_what_to_write_instead() {
        let both = format!("[a]\nkey = \"{KEY}\"\nkey-file = \"x\"\n");
        for (text, line, part) in [
            ("[a\n", 1, "this isn't TOML"),
            ("[a]\nserver = broker\n", 2, "this isn't TOML"),
            ("[a]\n[a]\n", 2, "duplicate key"),
            ("[a]\nrealm = \"\"\nrealm = \"\"\n", 3, "duplicate key"),
            ("server = \"x\"\n", 1, "outside of any profile"),
            ("\n[\"my broker\"]\n", 2, "a profile's name is"),
            ("[a]\nsever = \"x\"\n", 2, "unknown key \"sever\""),
            ("[a]\nopen_for = \"1s\"\n", 2, "counter-file and realm"),
            ("[a]\nclock = \"sun\"\n", 2, "utc, or counter"),
            ("[a]\ncounter-file = \"x\"\n", 2, "is for clock"),
            ("[a]\nclock = \"utc\"\ncounter-file = \"x\"\n", 3, "is for clock"),
            ("[a.b]\nserver = \"x\"\n", 1, "stands in quotes"),
            ("\n[press-17.example.com]\nserver = \"x\"\n", 2, "stands in quotes"),
            ("[a]\nserver = \"192.168.010.005\"\n", 2, "write 192.168.10.5"),
            ("[a]\naddress = \"10.0.0.08\"\n", 2, "write 10.0.0.8"),
            ("[a]\nserver = 1\n", 2, "put it in quotes"),
            ("[a]\nserver = \"::1\"\n", 2, "brackets"),
            ("[a]\nserver = \"x:0\"\n", 2, "from 1 to 65535"),
            ("[a]\nservice = \"MQTT\"\n", 2, "1 to 16"),
            ("[a]\nservice = \"\"\n", 2, "1 to 16"),
            ("[a]\nport = \"8883\"\n", 2, "tcp/8883"),
            ("[a]\nport = 8883\n", 2, "put it in quotes"),
            ("[a]\naddress = \"127.0.0.1\"\n", 2, "loopback"),
            ("[a]\naddress = \"any\"\n", 2, "auto, observed"),
            ("[a]\nopen-for = \"30\"\n", 2, "such as 90s"),
            ("[a]\nopen-for = 30\n", 2, "put it in quotes"),
            ("[a]\nrealm = \"é\"\n", 2, "printable ASCII"),
            ("[a]\nkey = \"c2hvcnQ=\"\n", 2, "5 bytes long"),
            ("[a]\n\nkey = \"secret words\"\n", 3, "isn't base64"),
            (&both, 3, "both key and key-file"),
        ] {
            let mistake = parse_text(text).map(|_| ()).unwrap_err();
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
            assert!(mistake.message.contains(part), "{text:?}: {mistake:?}");
        }
    }

    #[test]
    fn no_message_shows_any_part_of_a_key_wherever_in_the_file_it_strayed() {
        let sound = format!("[broker]\nserver = \"x\"\nkey = \"{KEY}\"\nrealm = \"y\"\n");
        let mut texts: Vec<String> = [
            format!("key = \"{KEY}\"\n"),
            format!("{KEY}\n"),
            format!("[{KEY}]\n"),
            format!("[\"{KEY}\"]\n"),
            format!("[a]\n{KEY}\n"),
            format!("[a]\n{KEY} = 1\n"),
            format!("[a]\n\"{KEY}\" = 1\n"),
            format!("[a]\nkey = {KEY}\n"),
            format!("[a]\nkey = [\"{KEY}\"]\n"),
            format!("[a]\nserver = \"{KEY}\"\n"),
            format!("[a]\nservice = \"{KEY}\"\n"),
            format!("[a]\nport = \"{KEY}\"\n"),
            format!("[a]\naddress = \"{KEY}\"\n"),
            format!("[a]\nopen-for = \"{KEY}\"\n"),
            format!("[a]\nrealm = \"{KEY}{KEY}\"\n"),
            format!("[a]\nclock = \"{KEY}\"\n"),
            format!("[a]\ncounter-file = \"{KEY}\"\n"),
        ]
        .into();
        for at in 0..sound.len() {
            for with in ["", "\"", "\\", "=", "[", "\n", "#", "\u{1}"] {
                texts.push(format!("{}{with}{}", &sound[..at], &sound[at + 1..]));
            }
        }
        let mut mistakes = 0;
        for text in texts {
            if let Err(mistake) = parse_text(&text) {
                mistakes += 1;
                let parts = KEY.as_bytes().windows(6);
                for part in parts.map(|part| std::str::from_utf8(part).unwrap()) {
                    assert!(!mistake.message.contains(part), "{text:?}: {mistake:?}");
                }
            }
        }
        assert!(mistakes > 500, "{mistakes}");
    }
}
