//! What the daemon says of itself and must look up: never in the event loop, which has packets to deal with.

use std::path::Path;

use super::Status;
use crate::firewall::counters;

/// Where systemd-timesyncd keeps its state while it runs (its RuntimeDirectory), and the file there that it makes
/// when the clock is synchronised: systemd-timesyncd.service(8). The kernel's own word, adjtimex(2), is forbidden
/// to a service with ProtectClock=.
const TIMESYNC: &str = "/run/systemd/timesync";
const SYNCHRONIZED: &str = "synchronized";

/// Adds what the kernel has dropped, and whether the clock is synchronised. Takes some milliseconds, in which it
/// blocks: it runs nft.
pub fn look_up(status: &mut Status) {
    status.kernel_drops = counters::read().ok().flatten();
    // There is no counter because there is no table, and the daemon hasn't looked at that yet.
    status.table.whole &= status.kernel_drops.is_some();
    status.clock.synchronized = clock_is_synchronized();
}

/// Whether systemd-timesyncd says that the clock is synchronised; `None` where it doesn't run.
#[must_use]
pub fn clock_is_synchronized() -> Option<bool> {
    synchronized(Path::new(TIMESYNC))
}

fn synchronized(folder: &Path) -> Option<bool> {
    folder.is_dir().then(|| folder.join(SYNCHRONIZED).exists())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_clock_is_synchronised_if_timesyncd_says_so_and_where_it_does_not_run_nobody_knows() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("timesync");
        assert_eq!(synchronized(&state), None);
        fs::create_dir(&state).unwrap();
        assert_eq!(synchronized(&state), Some(false));
        fs::write(state.join(SYNCHRONIZED), "").unwrap();
        assert_eq!(synchronized(&state), Some(true));
    }
}
