//! The table that follows from a configuration, and who needs a door by it.

use std::{path::Path, sync::Arc};

use crate::{
    config::{self, Config, InterfaceName, reload::stamp},
    firewall::{
        connections::Guarded,
        ruleset::{Plan, Prefilter, Ruleset},
    },
    mend::Newer,
};

/// The table that follows from a configuration, for this many clients.
#[must_use]
pub fn ruleset(config: &Config, clients: usize) -> Ruleset {
    Ruleset::of(&Plan {
        knock_ports: &[config.listen.port().get()],
        prefilter: match config.prefilter.filters(clients) {
            true => Prefilter::On { junk_budget: config.prefilter.junk_budget, clients },
            false => Prefilter::Off,
        },
        services: &config.policy.services,
        allowed_interfaces: config.allow.interfaces.iter().map(InterfaceName::as_str).collect(),
        allowed_networks: &config.allow.networks,
        sessions: config.policy.grant.sessions,
        ban_scope: config.policy.ban.scope,
        replies: config.policy.reply,
    })
}

/// The connections that need a door by a configuration.
#[must_use]
pub fn guarded(config: &Config) -> Guarded {
    Guarded::new(&config.policy.services, &config.allow.networks)
}

/// Reads the configuration again if its main file has changed since now.
#[must_use]
pub fn newer(path: &Path) -> Newer {
    let (path, known) = (path.to_owned(), stamp(path).ok());
    Arc::new(move || {
        if stamp(&path).ok() == known {
            return None;
        }
        config::load(&path).ok().map(|config| ruleset(&config, config.clients.len()))
    })
}
