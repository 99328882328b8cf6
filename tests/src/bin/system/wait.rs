//! Waiting for what a whole machine does: longer than for a process, and told while it lasts.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a machine may take for anything: to boot, to install a package, to restart a service.
pub(crate) const LONG: Duration = Duration::from_secs(120);
/// Waits that are longer than this are told.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Polls until `look` finds something, and panics with `what` if it doesn't in [`LONG`].
#[track_caller]
pub(crate) fn wait_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut told = TOLD_AFTER;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LONG, "waited {LONG:?} in vain until {what}");
        if start.elapsed() > told {
            println!("    … waiting until {what}: {} s", start.elapsed().as_secs());
            told += TOLD_AFTER * 2;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Polls until `condition` holds, and panics with `what` if it doesn't in [`LONG`].
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    wait_some(what, || condition().then_some(()));
}

/// Lets time pass, and says why.
pub(crate) fn pass(time: Duration, why: &str) {
    if !time.is_zero() {
        println!("    … {:.0} s pass: {why}", time.as_secs_f64());
        sleep(time);
    }
}
