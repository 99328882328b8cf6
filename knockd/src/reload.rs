//! SIGHUP: changed clients are applied while packets go on being dealt with. Files are read and keys derived on
//! a thread of their own; what is left to do between packets is little.

use std::{collections::HashSet, future::pending, path::PathBuf};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use crate::{
    admission::Admission,
    clock,
    config::{
        Prefilter,
        reload::{Stamp, stamp},
    },
    firewall::Firewall,
    house::Housekeeping,
    roster::{Applied, NotApplied, Read, Roster},
};

/// The state of a reload.
pub struct Reload {
    roster: Roster,
    reading: Option<JoinHandle<Result<Read, NotApplied>>>,
    /// Asked for again while one was on its way.
    again: bool,
    main_file: PathBuf,
    main_stamp: Option<Stamp>,
    prefilter: Prefilter,
    /// Whether the kernel filters by tags, as it was decided at start.
    filters: bool,
}

impl Reload {
    /// Nothing is on its way yet.
    #[must_use]
    pub fn new(roster: Roster, main_file: PathBuf, prefilter: Prefilter, filters: bool) -> Self {
        let main_stamp = stamp(&main_file).ok();
        Self { roster, reading: None, again: false, main_file, main_stamp, prefilter, filters }
    }

    /// Begins to read what has changed.
    pub fn begin(&mut self) {
        let main_stamp = stamp(&self.main_file).ok();
        if main_stamp != self.main_stamp {
            self.main_stamp = main_stamp;
            warn!(
                event = "restart-due",
                "{} has changed: its changes take effect at a restart, those of clients now",
                self.main_file.display()
            );
        }
        if self.reading.is_some() {
            self.again = true;
            return;
        }
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
            // It panicked, which is a fault of this program; the clients stay as they are.
            Err(error) => Err(NotApplied::Failed(error.to_string())),
        }
    }

    /// Applies what was read.
    pub fn apply<F: Firewall>(
        &mut self,
        read: Result<Read, NotApplied>,
        admission: &mut Admission<F>,
        house: &mut Housekeeping,
    ) {
        let directory = admission.gate_mut().directory_mut();
        match read.and_then(|read| self.roster.apply(read, directory)) {
            Ok(applied) => {
                follow(&applied, admission, house);
                self.watch_the_filter(admission.gate().directory().len());
            }
            Err(error) => error!(event = "reload-refused", "the clients stay as they are: {error}"),
        }
        if std::mem::take(&mut self.again) {
            self.begin();
        }
    }

    /// Tells when there are so many clients, or so few, that the kernel ought to filter otherwise.
    fn watch_the_filter(&self, clients: usize) {
        if self.prefilter.filters(clients) != self.filters {
            warn!(
                clients,
                event = "restart-due",
                "by the number of clients the kernel ought {} filter by tags: that takes effect at a restart",
                if self.filters { "no longer to" } else { "to" }
            );
        }
    }
}

/// Makes grants and the kernel's tags follow the changed clients.
fn follow<F: Firewall>(applied: &Applied, admission: &mut Admission<F>, house: &mut Housekeeping) {
    let Applied { added, changed, removed } = applied;
    let restricted: HashSet<_> = changed.iter().chain(removed).copied().collect();
    let ended = match admission.revoke_what_is_not_allowed(&restricted, clock::now()) {
        Ok(ended) => ended,
        Err(error) => {
            error!(
                event = "doors-not-shut",
                "doors of clients that are gone or restricted could not be shut: {error}"
            );
            0
        }
    };
    for client in removed {
        admission.gate_mut().forget(*client);
    }
    let with_tags: Vec<_> = added.iter().chain(changed).copied().collect();
    if let Err(error) = house.let_tags_in(admission, &with_tags) {
        error!(
            event = "tags-failed",
            "tags of clients could not be let past the kernel's filter: {error}"
        );
    }
    info!(
        clients = admission.gate().directory().len(),
        event = "reloaded",
        "clients: {} added, {} changed, {} removed, {ended} grants ended",
        added.len(),
        changed.len(),
        removed.len()
    );
}
