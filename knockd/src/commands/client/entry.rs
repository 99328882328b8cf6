//! A client's entry as the commands write it.

use std::{fmt::Write as _, num::NonZeroU32};

use common::{Secret, ServiceName, Timestamp};
use ipnet::IpNet;

use crate::{
    commands::moment::Moment,
    config::{Config, secret},
    gate::policy::{AddressPolicy, Client, ClientClock, ClientName, Standing},
};

/// What an entry says.
pub(super) struct Entry {
    pub(super) name: ClientName,
    pub(super) key: EntryKey,
    /// The key before, and until when it is good.
    pub(super) old_key: Option<(Secret, Timestamp)>,
    pub(super) services: Vec<ServiceName>,
    pub(super) from: Vec<IpNet>,
    pub(super) address: AddressPolicy,
    pub(super) clock: ClientClock,
    pub(super) expires: Option<Timestamp>,
    pub(super) standing: Standing,
}

/// What an entry says of its key.
pub(super) enum EntryKey {
    /// This.
    Own(Secret),
    /// It is derived of the master key; the generation.
    Master(NonZeroU32),
}

impl EntryKey {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one.is_same(other),
            (Self::Master(one), Self::Master(other)) => one == other,
            (Self::Own(_), Self::Master(_)) | (Self::Master(_), Self::Own(_)) => false,
        }
    }
}

impl Entry {
    /// The entry of a client in a configuration, or of one that is new to it.
    pub(super) fn of(client: &Client, config: &Config) -> Self {
        let derived = config.derived.get(&client.name);
        Self {
            name: client.name.clone(),
            key: match derived {
                Some(generation) => EntryKey::Master(*generation),
                None => EntryKey::Own(client.secret.clone()),
            },
            old_key: client.old_key.as_deref().map(|old| (old.secret.clone(), old.until)),
            services: client.services.to_vec(),
            from: client.from.clone(),
            address: client.address,
            clock: client.clock,
            expires: client.expires,
            standing: client.standing,
        }
    }

    /// Whether both say the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let old_key_is_same = match (&self.old_key, &other.old_key) {
            (None, None) => true,
            (Some((one, until)), Some((other, end))) => one.is_same(other) && until == end,
            _ => false,
        };
        self.name == other.name
            && self.key.is_same(&other.key)
            && old_key_is_same
            && self.services == other.services
            && self.from == other.from
            && self.address == other.address
            && self.clock == other.clock
            && self.expires == other.expires
            && self.standing == other.standing
    }

    /// The most bytes that it takes to write it.
    pub(super) fn room(&self) -> usize {
        640 + 64 * (self.services.len() + self.from.len())
    }

    /// Writes it. What is as it is by default is left out. The text has to have [`Self::room`], so that it never
    /// moves and leaves a copy behind.
    pub(super) fn write(&self, text: &mut String) {
        // Writing to a text can't fail, here and below.
        let _ = writeln!(text, "[[client]]\nname = \"{}\"", self.name);
        match &self.key {
            EntryKey::Own(key) => {
                let _ = writeln!(text, "key = \"{}\"", *secret::to_text(key));
            }
            EntryKey::Master(generation) => {
                let _ = writeln!(text, "key-from = \"master\"");
                if *generation != NonZeroU32::MIN {
                    let _ = writeln!(text, "key-generation = {generation}");
                }
            }
        }
        if let Some((key, until)) = &self.old_key {
            let _ = writeln!(text, "old-key = \"{}\"", *secret::to_text(key));
            let _ = writeln!(text, "old-key-until = {}", Moment::from(*until));
        }
        let _ = writeln!(text, "services = {}", list(&self.services));
        if !self.from.is_empty() {
            let _ = writeln!(text, "from = {}", list(&self.from));
        }
        match self.address {
            AddressPolicy::Strict => {}
            AddressPolicy::Observed => {
                let _ = writeln!(text, "address = \"observed\"");
            }
        }
        match self.clock {
            ClientClock::Utc => {}
            ClientClock::Counter => {
                let _ = writeln!(text, "clock = \"counter\"");
            }
        }
        if let Some(expires) = self.expires {
            let _ = writeln!(text, "expires = {}", Moment::from(expires));
        }
        match self.standing {
            Standing::Enabled => {}
            Standing::Disabled => {
                let _ = writeln!(text, "enabled = false");
            }
        }
    }
}

/// A list of things whose text needs no escape.
fn list(things: &[impl ToString]) -> String {
    let quoted: Vec<_> = things.iter().map(|it| format!("\"{}\"", it.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}
