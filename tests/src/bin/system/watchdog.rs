//! How long systemd waits for a sign of life from the daemon before it kills it.

use std::time::Duration;

use crate::machine::Machine;

/// `WatchdogSec=` of the running unit.
pub(crate) fn limit(machine: &Machine) -> Duration {
    let span = machine.sh("systemctl show -p WatchdogUSec --value --timestamp=us knockd");
    Duration::from_secs(seconds(span.trim()))
}

/// A time span of systemd's, such as "1min 30s", in seconds.
fn seconds(span: &str) -> u64 {
    let part = |part: &str| -> u64 {
        let number = |unit: &str| part.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok());
        let found = number("min").map(|n| n * 60).or_else(|| number("s"));
        found.unwrap_or_else(|| panic!("no time span: {span}"))
    };
    span.split(' ').map(part).sum()
}
