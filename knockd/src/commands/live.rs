//! Live grants, as the state folder has them while no daemon runs: put in again with a table that had lost them.
//!
//! # Security considerations
//! - Only what the configuration as it is now allows is put in: the daemon's start would do the same.
//! - While a daemon holds the folder nothing is done: it knows better.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock,
    config::Config,
    firewall::kernel::Kernel,
    gate::{
        bans::Bans,
        clock::Now,
        grants::Door,
        policy::{Client, Standing},
    },
    journal::{
        BootId, StateFolder,
        banned::{self, FILE_NAME as BANS},
        held::{self, FILE_NAME as GRANTS, StoredGrant},
    },
};

/// Opens the doors of live grants that aren't open, for what is left of them. They are those of this boot.
///
/// # Errors
/// In words, why they can't be.
pub(super) fn restore(config: &Config) -> Result<(), String> {
    if StateFolder::is_in_use(&config.state) {
        return Ok(());
    }
    let boot = BootId::current().map_err(|error| error.to_string())?;
    let now = clock::now();
    let stored = match held::load(&config.state.join(GRANTS), Some(boot)) {
        Ok(held::Found::Grants(stored)) => stored,
        // Nobody knows which of them are live.
        Ok(held::Found::None | held::Found::Damaged) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let mut bans = Bans::new(&config.policy.ban);
    let found = banned::load(&config.state.join(BANS), boot, now);
    if let banned::Found::Bans(found) = found.map_err(|error| error.to_string())? {
        for (source, ban) in found {
            let _ = bans.ban(source, ban, &mut Vec::new());
        }
    }
    let doors = doors(&stored, config, &bans, now);
    if doors.is_empty() {
        return Ok(());
    }
    let opened = Kernel::open().and_then(|mut kernel| kernel.open_doors(&doors));
    opened.map_err(|error| error.to_string())
}

/// The doors of these grants, and for how long yet.
fn doors(stored: &[StoredGrant], config: &Config, bans: &Bans, now: Now) -> Vec<(Door, Duration)> {
    let clients: HashMap<&str, &Client> =
        config.clients.iter().map(|client| (client.name.as_str(), client)).collect();
    let is_live = |grant: &&StoredGrant| {
        let client = clients.get(grant.client.as_str());
        grant.until > now.uptime
            && client.is_some_and(|client| may_hold(client, grant, now))
            && !bans.is_shut_out(grant.address.ip(), now.uptime)
    };
    let mut doors: HashMap<Door, Duration> = HashMap::new();
    for grant in stored.iter().filter(is_live) {
        let services = &config.policy.services;
        let ports = services.iter().filter(|it| it.name == grant.service).flat_map(|it| &it.ports);
        for port in ports {
            let left = grant.until.since(now.uptime);
            let open = doors.entry(Door { address: grant.address, port: *port }).or_insert(left);
            *open = left.max(*open);
        }
    }
    doors.into_iter().collect()
}

fn may_hold(client: &Client, grant: &StoredGrant, now: Now) -> bool {
    client.standing == Standing::Enabled
        && client.expires.is_none_or(|expires| now.utc < expires)
        && client.services.contains(&grant.service)
        && (client.from.is_empty()
            || client.from.iter().any(|network| network.contains(&grant.address.ip())))
}
