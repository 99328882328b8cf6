//! Tells of counters that are lost, of clients without a clock.

use tracing::{error, info};

use crate::{admission::Admission, firewall::Firewall, journal::counted};

/// Tells what is wrong with the file of counters.
pub fn report_file(condition: counted::Condition) {
    match condition {
        counted::Condition::Whole => {}
        // Nothing is wrong with that, unless clients without a clock had counters in it.
        counted::Condition::Missing => {
            info!(event = "counters-begun", "there is no file of counters: a new one is made")
        }
        counted::Condition::Damaged(damage) => {
            error!(event = "state-lost", "the file of counters is damaged ({damage})")
        }
    }
}

/// Names of clients with lost counters that are told.
const LOST_TOLD: usize = 10;

/// Tells whose counters are lost: nobody else would see why such a device doesn't get in.
pub fn report<F: Firewall>(admission: &Admission<F>) {
    let lost: Vec<_> = admission.lost_counters().collect();
    if lost.is_empty() {
        return;
    }
    let directory = admission.gate().directory();
    let mut names: Vec<_> =
        lost.iter().take(LOST_TOLD).map(|client| directory.name(*client)).collect();
    if lost.len() > LOST_TOLD {
        names.push("…");
    }
    error!(
        clients = lost.len(),
        event = "counters-lost",
        "the counters of clients without a clock are not known: nothing is accepted from {} until each is set \
         (knockd client resync NAME)",
        names.join(", ")
    );
}
