//! Live grants, as the state folder has them while no daemon runs: put in again with a table that had lost them.
//!
//! # Security considerations
//! - Only what the configuration as it is now allows is put in: the daemon's start would do the same.
//! - While a daemon holds the folder nothing is done: it knows better.

use std::collections::HashSet;

use crate::{
    clock,
    config::Config,
    firewall::kernel::Kernel,
    gate::{
        Gate,
        bans::Bans,
        directory::Directory,
        replay::{Floor, ReplayMemory},
    },
    journal::{
        BootId, StateFolder,
        banned::{self, FILE_NAME as BANS},
        held::{self, FILE_NAME as GRANTS, StoredGrant},
    },
    reconcile::live_doors,
    restore::live_grants,
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
    let gate = gate(config, bans, &stored);
    let (grants, _) = live_grants(stored, &gate, now);
    let doors = live_doors(&grants, now.uptime);
    if doors.is_empty() {
        return Ok(());
    }
    let opened = Kernel::open().and_then(|mut kernel| kernel.open_doors(&doors));
    opened.map_err(|error| error.to_string())
}

/// What says who may hold what: with the clients of these grants, and nothing that was accepted.
fn gate(config: &Config, bans: Bans, stored: &[StoredGrant]) -> Gate {
    let policy = &config.policy;
    let names: HashSet<&str> = stored.iter().map(|grant| grant.client.as_str()).collect();
    let clients = config.clients.iter().filter(|client| names.contains(client.name.as_str()));
    let directory =
        Directory::new(policy.services.clone(), clients.cloned().collect(), &policy.realm);
    let replay = ReplayMemory::new(policy.replay, policy.clock_skew, Floor::default());
    let mut gate = Gate::new(directory, replay, policy.grant, &policy.ban, policy.clock_skew);
    *gate.bans_mut() = bans;
    gate
}
