//! A changed configuration is applied while packets go on being dealt with: on SIGHUP, and when the control socket
//! asks for it. Files are read and keys derived on a thread of their own; what is left to do between packets is
//! little.
//!
//! # Security considerations
//! - A change is applied whole or not at all: a mistake in any file, or a kernel that refuses the table, leaves
//!   everything as it was.
//! - The kernel's table comes first, and whoever decides follows: a port that is guarded anew is shut before
//!   anybody is let in to it, and no door is opened by a policy that the kernel doesn't have.
//! - Live grants, bans and remembered packets stay, but for grants that a client's entry no longer allows, and
//!   bans of who is never banned any more.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    mem,
};

use common::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use crate::{
    admission::Admission,
    clock,
    config::{
        Config, Mistakes,
        compare::{Difference, Effect, differences},
    },
    control::{
        Reply, Request,
        configuration::{Configuration, MISTAKES_TOLD, Mistake, Refusal, Reloaded, Setting},
        server::Asked,
    },
    firewall::{FirewallError, ruleset::Tags},
    gate::{
        clock::Now,
        grants::Door,
        policy::{ClientName, ReplyPolicy},
    },
    house::Housekeeping,
    mend::Mender,
    plan,
    roster::{Applied, NotApplied, Read, Roster, Sound},
    telemetry::rfc3339,
};

/// The state of a reload.
pub struct Reload {
    roster: Roster,
    /// The main file as it is in force, with no client.
    in_force: Config,
    reading: Option<JoinHandle<Result<Read, NotApplied>>>,
    /// Who has asked for what is being read.
    waiting: Vec<Asked>,
    /// Who has asked since it began, if anybody has: what is being read may be older than what they mean.
    later: Option<Vec<Asked>>,
    since: Timestamp,
    refused: Option<(Timestamp, Refusal)>,
    restart: Vec<String>,
}

impl Reload {
    /// Nothing is on its way yet. `in_force` is the configuration that the daemon has started by, with no client.
    #[must_use]
    pub fn new(roster: Roster, in_force: Config, now: Now) -> Self {
        Self {
            roster,
            in_force,
            reading: None,
            waiting: Vec::new(),
            later: None,
            since: now.utc,
            refused: None,
            restart: Vec::new(),
        }
    }

    /// Begins to read what has changed. Who asks is answered when it is applied.
    pub fn begin(&mut self, asked: Option<Asked>) {
        if self.reading.is_some() {
            self.later.get_or_insert_default().extend(asked);
            return;
        }
        self.waiting.extend(asked);
        let reading = self.roster.reading();
        self.reading = Some(spawn_blocking(move || reading.read()));
    }

    /// Waits until something was read; for ever if nothing is being read. Nothing is lost if it is dropped.
    pub async fn read(&mut self) -> Result<Read, NotApplied> {
        let Some(reading) = &mut self.reading else { return pending().await };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(read) => read,
            // It panicked, which is a fault of this program; everything stays as it is.
            Err(error) => Err(NotApplied::Failed(error.to_string())),
        }
    }

    /// Applies what was read, and answers who has asked.
    pub fn apply(
        &mut self,
        read: Result<Read, NotApplied>,
        admission: &mut Admission<Mender>,
        house: &mut Housekeeping,
    ) {
        let directory = admission.gate().directory();
        let cut = self.doors_to_cut(admission);
        let sound = read.and_then(|read| self.roster.check(read, directory));
        let reply = match sound.and_then(|sound| self.put_in_force(sound, admission, house)) {
            Ok(reloaded) => Reply::Reloaded(Box::new(reloaded)),
            Err(error) => Reply::NotReloaded(self.refuse(&error)),
        };
        let is_in_force = matches!(reply, Reply::Reloaded(_));
        for asked in mem::take(&mut self.waiting) {
            let reply = reply.clone();
            match cut_of(&asked).filter(|_| is_in_force) {
                None => asked.answer(reply),
                Some(name) => {
                    let doors = cut.get(name.as_str()).cloned().unwrap_or_default();
                    let done = move |ended| asked.answer(reply.with_connections(ended));
                    admission.firewall().end_connections_through(doors, Box::new(done));
                }
            }
        }
        if let Some(later) = self.later.take() {
            self.waiting = later;
            self.begin(None);
        }
    }

    /// Which configuration is in force.
    #[must_use]
    pub fn status(&self) -> Configuration {
        Configuration {
            file: self.roster.main_file().display().to_string(),
            since: rfc3339(self.since),
            restart: self.restart.clone(),
            refused: self.refused.as_ref().map(|(_, refusal)| refusal.clone()),
        }
    }

    /// Whether packets that ask for a reply get one, by the configuration in force.
    #[must_use]
    pub const fn replies(&self) -> ReplyPolicy {
        self.in_force.policy.reply
    }

    /// The doors by which those clients came in whose connections are to end with this reload, by name: looked up
    /// before it, since they may be gone with it.
    fn doors_to_cut(&self, admission: &Admission<Mender>) -> HashMap<String, HashSet<Door>> {
        let names: HashSet<&str> =
            self.waiting.iter().filter_map(cut_of).map(ClientName::as_str).collect();
        if names.is_empty() {
            return HashMap::new();
        }
        let clients = admission.gate().directory().clients();
        let meant = clients.filter(|(_, name)| names.contains(name));
        meant.map(|(client, name)| (name.to_owned(), admission.doors_of(client))).collect()
    }

    fn refuse(&mut self, error: &NotApplied) -> Refusal {
        let (mistakes, more) = match error {
            NotApplied::Mistakes(mistakes) => told(mistakes),
            NotApplied::Failed(_) | NotApplied::System(_) => {
                (vec![Mistake { file: None, line: None, text: error.to_string() }], 0)
            }
        };
        for mistake in &mistakes {
            let (file, line) = (mistake.file.as_deref(), mistake.line);
            error!(
                event = "reload-refused",
                file, line, "the configuration stays as it was: {}", mistake.text
            );
        }
        if more > 0 {
            error!(event = "reload-refused", "and {more} mistakes more: knockd check tells all");
        }
        let first = self.refused.as_ref().map_or_else(|| clock::now().utc, |(first, _)| *first);
        let refusal = Refusal { since: rfc3339(first), mistakes, more };
        self.refused = Some((first, refusal.clone()));
        refusal
    }

    /// Puts it in force: first what can fail, and the kernel's table last of that.
    fn put_in_force(
        &mut self,
        sound: Sound,
        admission: &mut Admission<Mender>,
        house: &mut Housekeeping,
    ) -> Result<Reloaded, NotApplied> {
        let settings = sound.settings().clone();
        let (restart, at_once): (Vec<_>, Vec<_>) = differences(&self.in_force, &settings)
            .into_iter()
            .partition(|it| it.effect == Effect::AtStart);
        let config = settings.without_restart(&self.in_force);
        let clients = sound.clients(admission.gate().directory());
        admission
            .make_room(config.policy.replay.capacity)
            .map_err(|error| NotApplied::System(error.to_string()))?;
        self.put_table_in(&config, clients, admission, house)
            .map_err(|error| NotApplied::System(error.to_string()))?;

        let now = clock::now();
        let mut reloaded = Reloaded::default();
        if !at_once.is_empty() {
            reloaded.bans_lifted = admission.follow(&config.policy, now);
            house.follow(config.policy.clock_skew, now);
        }
        let applied = self.roster.apply(sound, admission.gate_mut().directory_mut());
        follow_clients(&applied, &mut reloaded, admission, house, now);
        if !at_once.is_empty() {
            let (ended, doors) = admission.settle_services(now);
            reloaded.grants_ended += ended;
            warn_of(&mut reloaded, doors);
        }
        self.in_force = config;
        (self.since, self.refused) = (now.utc, None);
        self.restart = restart.iter().map(|it| it.key.clone()).collect();
        reloaded.changed = !at_once.is_empty() || !applied.is_nothing();
        reloaded.settings = at_once.into_iter().map(Setting::from).collect();
        reloaded.clients = admission.gate().directory().len();
        tell(&reloaded, &restart);
        reloaded.restart = restart.into_iter().map(Setting::from).collect();
        Ok(reloaded)
    }

    /// Puts the table in that follows from this configuration. The tags are in before it filters by them.
    fn put_table_in(
        &self,
        config: &Config,
        clients: usize,
        admission: &mut Admission<Mender>,
        house: &mut Housekeeping,
    ) -> Result<(), FirewallError> {
        let filters = config.prefilter.filters(clients);
        let begins = filters && !house.keeps_tags();
        if begins {
            house.begin_to_keep_tags(config.policy.clock_skew, admission)?;
        }
        let (table, newer) = (plan::ruleset(config, clients), plan::newer(self.roster.main_file()));
        let put_in = admission.firewall_mut().follow(table, newer, plan::guarded(config));
        match put_in {
            Ok(_) if !filters => house.stop_keeping_tags(),
            Ok(Tags::Kept) => {}
            Ok(Tags::Gone) => {
                house.put_tags_in_again();
                if let Err(error) = house.let_all_tags_in(admission) {
                    error!(
                        event = "tags-failed",
                        "tags of clients could not be let past the kernel's filter: {error}"
                    );
                }
            }
            Err(error) => {
                if begins {
                    house.stop_keeping_tags();
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The client whose connections are to end with the reload that is asked for.
fn cut_of(asked: &Asked) -> Option<&ClientName> {
    match &asked.request {
        Request::Reload { cut } => cut.as_ref(),
        _ => None,
    }
}

/// Makes grants and the kernel's tags follow the changed clients.
fn follow_clients(
    applied: &Applied,
    reloaded: &mut Reloaded,
    admission: &mut Admission<Mender>,
    house: &mut Housekeeping,
    now: Now,
) {
    let Applied { added, changed, removed } = applied;
    (reloaded.added, reloaded.modified, reloaded.removed) =
        (added.len(), changed.len(), removed.len());
    let restricted: HashSet<_> = changed.iter().chain(removed).copied().collect();
    let before = admission.grants().owners().len();
    let shut = admission.revoke_what_is_not_allowed(&restricted, now);
    reloaded.grants_ended += before - admission.grants().owners().len();
    warn_of(reloaded, shut.map(|_| ()));
    admission.gate_mut().forget(&removed.iter().copied().collect());
    let with_tags: Vec<_> = added.iter().chain(changed).copied().collect();
    warn_of(reloaded, house.let_tags_in(admission, &with_tags));
}

/// Tells what the kernel has not done of a change that is in force all the same.
fn warn_of(reloaded: &mut Reloaded, done: Result<(), FirewallError>) {
    if let Err(error) = done {
        error!(
            event = "reload-unfinished",
            "the kernel does not follow the changed configuration yet: {error}"
        );
        reloaded.warning = Some(error.to_string());
    }
}

fn told(mistakes: &Mistakes) -> (Vec<Mistake>, usize) {
    let all = mistakes.iter().count();
    (
        mistakes.iter().take(MISTAKES_TOLD).map(Mistake::from).collect(),
        all.saturating_sub(MISTAKES_TOLD),
    )
}

fn tell(reloaded: &Reloaded, restart: &[Difference]) {
    let Reloaded { clients, added, modified, removed, grants_ended, bans_lifted, .. } = reloaded;
    for Setting { key, was, is } in &reloaded.settings {
        info!(event = "setting-changed", key, was, is, "{key} is {is} from here on, and was {was}");
    }
    for Difference { key, was, is, .. } in restart {
        warn!(
            event = "restart-due",
            key,
            was,
            is,
            "{key} has changed to {is}, which takes effect at a restart: it is {was} until then"
        );
    }
    if *bans_lifted > 0 {
        info!(
            event = "never-banned",
            lifted = bans_lifted,
            "bans of sources that are never banned any more: {bans_lifted} lifted"
        );
    }
    info!(
        clients,
        event = "reloaded",
        "clients: {added} added, {modified} changed, {removed} removed, {grants_ended} grants ended"
    );
}
