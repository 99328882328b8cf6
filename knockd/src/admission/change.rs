//! What a change of the configuration comes to for whoever is in, or banned.

use tracing::error;

use super::{Admission, span};
use crate::{
    firewall::{Firewall, FirewallError},
    gate::{bans::BanChange, clock::Now, policy::Policy},
    journal::{StateError, StateFile},
};

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// Makes room in the state folder for as many packets as are to be remembered at once.
    ///
    /// # Errors
    /// [`StateError`]; then everything is as it was.
    pub fn make_room(&mut self, capacity: u32) -> Result<(), StateError> {
        self.files.seen.make_room(&self.files.folder, capacity)
    }

    /// Decides by this policy from here on; [`Self::make_room`] comes before it, and the clients' entries and
    /// [`Self::settle_services`] behind it. Returns how many bans it has lifted, of sources that are never banned by it.
    pub fn follow(&mut self, policy: &Policy, now: Now) -> usize {
        let spared = self.gate.follow(policy);
        // What keeps lost packets out depends on the skew: the file must not be older than the policy.
        if let Err(error) = self.files.seen.append(&[], span(&self.gate)) {
            error!(
                event = "state-unwritten",
                "the file of accepted packets can't be written: {error}; it is again with the next packet that is accepted"
            );
        }
        let mut changes: Vec<BanChange> = Vec::new();
        for source in &spared {
            changes.extend(self.gate.bans_mut().lift(*source));
            // Where it can't be written, a restart finds that the source is never banned.
            let _ = self.files.banned.put(*source, None, now);
        }
        if !changes.is_empty() {
            // Where the kernel refuses, it is in doubt from here on.
            let _ = self.change_bans(&changes, now);
        }
        spared.len()
    }

    /// Makes the doors follow from the ports that the services have now, and ends the grants that nobody may hold any
    /// more, as those of services that are gone. Looks at every grant. Returns how many have ended, and whether the kernel's doors have followed;
    /// where they have not, the kernel is in doubt, and it is tried again.
    pub fn settle_services(&mut self, now: Now) -> (usize, Result<(), FirewallError>) {
        let mut changes = Vec::new();
        let ended = self.settle(|_| true, now, &mut changes);
        self.grants.follow(self.gate.directory(), &mut changes);
        (ended, self.change_doors_if_any(&changes, now))
    }
}
