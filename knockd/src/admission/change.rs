//! What a change of the configuration comes to for whoever is in, or banned.

use std::io;

use super::{Admission, Files};
use crate::{
    firewall::{Firewall, FirewallError},
    gate::{bans::BanChange, clock::Now, policy::Policy},
    journal::StateFile,
};

impl<F: Firewall, D: StateFile> Admission<F, D> {
    /// Makes room in the state folder for as many packets as are to be remembered at once.
    ///
    /// # Errors
    /// What the disk says; then everything is as it was. Where it takes its time, there is room by when it answers:
    /// until then, packets beyond what there was room for wait.
    pub fn make_room(&mut self, capacity: u32) -> io::Result<()> {
        let room = move |files: &mut Files<D>| files.make_room(capacity).map_err(io::Error::other);
        let made = self.disk.order_and_wait(room);
        match made {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Some(twin) = &mut self.twin {
            twin.make_room(capacity);
        }
        Ok(())
    }

    /// Decides by this policy from here on; [`Self::make_room`] comes before it, and the clients' entries and
    /// [`Self::settle_services`] behind it. Returns how many bans it has lifted, of sources that are never banned by it.
    pub fn follow(&mut self, policy: &Policy, now: Now) -> usize {
        let spared = self.gate.follow(policy);
        let mut changes: Vec<BanChange> = Vec::new();
        for source in &spared {
            changes.extend(self.gate.bans_mut().lift(*source));
            // Where it can't be written, a restart finds that the source is never banned.
            let _ = self.write_ban(*source, None, now);
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
        let ended = self.restrict(|_| true, now, &mut changes);
        self.grants.follow(self.gate.directory(), &mut changes);
        (ended, self.change_doors_if_any(&changes, now))
    }
}
