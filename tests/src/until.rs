//! Waiting for a condition, with a deadline; never a bare sleep.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it. Generous: two cores, many tests.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Polls until `condition` holds, and panics with `what` if it doesn't in [`DEADLINE`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Polls until `look` finds something, and panics with `what` if it doesn't in [`DEADLINE`].
#[track_caller]
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
