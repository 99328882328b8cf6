//! What an import comes to: of each record, the entry that there is to be, and how it differs from the one there is.

use std::{collections::HashMap, num::NonZeroU32, path::Path, str::FromStr};

use ipnet::IpNet;

use super::{
    super::{
        add::new_secret,
        entry::{Entry, EntryKey},
    },
    complaints::Complaints,
    table::Record,
};
use crate::{
    commands::{Failure, moment::Moment},
    config::{Config, Located, network, secret},
    gate::policy::{AddressPolicy, ClientClock, ClientName, Standing},
};

/// What becomes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Updated,
    Unchanged,
}

/// What one line of the table comes to.
pub(super) struct Planned {
    pub(super) line: u64,
    pub(super) change: Change,
    pub(super) entry: Entry,
}

/// Of each record, what it comes to; entries that change have to be in the file of clients `target`.
///
/// # Errors
/// If there is no randomness to be had. What is wrong with the records are complaints.
pub(super) fn plan(
    records: &[Record],
    located: &Located,
    target: &Path,
    complaints: &mut Complaints,
) -> Result<Vec<Planned>, Failure> {
    let Located { config, origins } = located;
    let known: HashMap<&str, _> = config
        .clients
        .iter()
        .zip(origins)
        .map(|(client, origin)| (client.name.as_str(), (client, origin)))
        .collect();
    let mut lines: HashMap<ClientName, u64> = HashMap::new();
    let mut all = Vec::with_capacity(records.len());
    for record in records {
        let line = record.line;
        let mut reader = Reader { record, config, complaints };
        let Some(name) = reader.one("name", ClientName::from_str).flatten() else {
            if record.fields.get("name").is_none_or(Vec::is_empty) {
                complaints.add(line, "name is missing");
            }
            continue;
        };
        if let Some(first) = lines.insert(name.clone(), line) {
            complaints.add(line, format!("{name} is named at line {first} already"));
            continue;
        }
        let there = known.get(name.as_str());
        let before = there.map(|(client, _)| Entry::of(client, config));
        let entry = match there {
            Some((client, _)) => Entry::of(client, config),
            None => Entry {
                name,
                key: EntryKey::Own(new_secret()?),
                old_key: None,
                services: Vec::new(),
                from: Vec::new(),
                address: AddressPolicy::Strict,
                clock: ClientClock::Utc,
                expires: None,
                standing: Standing::Enabled,
            },
        };
        let entry = reader.apply(entry)?;
        let change = match &before {
            None => Change::Added,
            Some(before) if before.is_same(&entry) => Change::Unchanged,
            Some(_) => Change::Updated,
        };
        if let Some((_, origin)) = there
            && change == Change::Updated
            && *origin.file != *target
        {
            let into = origin.file.file_stem().unwrap_or_default().display();
            complaints.add(
                line,
                format!(
                    "{} is at {origin}, with something else: change it there, or import this line with --into {into}",
                    entry.name
                ),
            );
        }
        all.push(Planned { line, change, entry });
    }
    Ok(all)
}

/// Reads one record.
struct Reader<'a> {
    record: &'a Record,
    config: &'a Config,
    complaints: &'a mut Complaints,
}

impl Reader<'_> {
    fn wrong(&mut self, what: impl Into<String>) {
        self.complaints.add(self.record.line, what);
    }

    /// A field of one value: `None` if it isn't there or is wrong, `Some(None)` if it is empty.
    fn one<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        let values = self.record.fields.get(field)?;
        match values.as_slice() {
            [] => Some(None),
            [value] => match parse(value) {
                Ok(value) => Some(Some(value)),
                Err(error) => {
                    self.wrong(format!("{field} is wrong: {error}"));
                    None
                }
            },
            _ => {
                self.wrong(format!("{field} takes one value"));
                None
            }
        }
    }

    /// The entry with what the record says.
    fn apply(&mut self, mut entry: Entry) -> Result<Entry, Failure> {
        self.services(&mut entry);
        if let Some(networks) = self.record.fields.get("networks") {
            let parsed: Result<Vec<IpNet>, _> =
                networks.iter().map(|text| network::parse(text)).collect();
            match parsed {
                Ok(networks) => entry.from = networks,
                Err(error) => self.wrong(format!("networks is wrong: {error}")),
            }
        }
        if let Some(expires) = self.one("expires", Moment::from_str) {
            entry.expires = expires.map(Into::into);
        }
        let address = self.one("address", |text| match &*text.to_ascii_lowercase() {
            "strict" => Ok(AddressPolicy::Strict),
            "observed" => Ok(AddressPolicy::Observed),
            _ => Err("write strict or observed"),
        });
        if let Some(address) = address {
            entry.address = address.unwrap_or(AddressPolicy::Strict);
        }
        let clock = self.one("clock", |text| match &*text.to_ascii_lowercase() {
            "utc" => Ok(ClientClock::Utc),
            "counter" => Ok(ClientClock::Counter),
            _ => Err("write utc or counter"),
        });
        if let Some(clock) = clock {
            entry.clock = clock.unwrap_or(ClientClock::Utc);
        }
        let enabled = self.one("enabled", |text| match &*text.to_ascii_lowercase() {
            "true" | "yes" | "1" => Ok(Standing::Enabled),
            "false" | "no" | "0" => Ok(Standing::Disabled),
            _ => Err("write true or false"),
        });
        if let Some(enabled) = enabled {
            entry.standing = enabled.unwrap_or(Standing::Enabled);
        }
        self.key(&mut entry)?;
        Ok(entry)
    }

    fn services(&mut self, entry: &mut Entry) {
        let Some(names) = self.record.fields.get("services") else {
            if entry.services.is_empty() {
                self.wrong("services is missing: write what the client may open");
            }
            return;
        };
        if names.is_empty() {
            self.wrong("services is empty: the client could open nothing");
        }
        let known = &self.config.policy.services;
        let mut services = Vec::with_capacity(names.len());
        for name in names {
            match known.iter().find(|service| service.name.as_str() == name.as_str()) {
                Some(service) if services.contains(&service.name) => {
                    self.wrong(format!("services has {} twice", service.name));
                }
                Some(service) => services.push(service.name),
                None => {
                    let names: Vec<_> = known.iter().map(|it| it.name.as_str()).collect();
                    let names = names.join(", ");
                    self.wrong(format!("services has one that knockd.toml doesn't: write {names}"));
                }
            }
        }
        entry.services = services;
    }

    fn key(&mut self, entry: &mut Entry) -> Result<(), Failure> {
        let key = self
            .one("key", |text| secret::of_text(text).map_err(|what| format!("it {what}")))
            .flatten();
        let from_master = self
            .one("key-from", |text| match &*text.to_ascii_lowercase() {
                "own" => Ok(false),
                "master" => Ok(true),
                _ => Err("write own or master"),
            })
            .flatten();
        let generation = self
            .one("key-generation", |text| {
                text.parse::<NonZeroU32>().map_err(|_| "write a whole number from 1 on")
            })
            .flatten();
        let is_derived = matches!(entry.key, EntryKey::Master(_));
        let former = std::mem::replace(&mut entry.key, EntryKey::Master(NonZeroU32::MIN));
        entry.key = match (key, from_master.unwrap_or(is_derived)) {
            (Some(_), _) if from_master == Some(true) => {
                self.wrong("key-from is master, and there is a key as well");
                former
            }
            (Some(key), _) => EntryKey::Own(key),
            (None, true) => {
                let before = match former {
                    EntryKey::Master(generation) => generation,
                    EntryKey::Own(_) => NonZeroU32::MIN,
                };
                EntryKey::Master(generation.unwrap_or(before))
            }
            (None, false) if is_derived => EntryKey::Own(new_secret()?),
            (None, false) => former,
        };
        if generation.is_some_and(|it| it != NonZeroU32::MIN)
            && !matches!(entry.key, EntryKey::Master(_))
        {
            self.wrong("key-generation counts derived keys, and this one isn't: leave it empty");
        }
        Ok(())
    }
}
