//! What it takes, and how exposed it is.

use crate::machine::Machine;
use crate::packages::{CLIENT, DAEMON};
use crate::report::saw;
use crate::scenes::Stage;

/// The highest exposure that passes, as `systemd-analyze security` counts it: 0 to 10.
pub(crate) const EXPOSURE: f64 = 1.5;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    report.check(&format!("the units' exposure is {EXPOSURE} at most"), || {
        for unit in ["knockd.service", "knockd-firewall.service"] {
            let level = exposure(broker, unit);
            assert!(level <= EXPOSURE, "{unit}: {level} is above {EXPOSURE}");
        }
    });
    report.check("installed size and memory", || {
        saw(&broker.sh(&format!(
            "dpkg-query -W -f '${{Package}} ${{Version}}: ${{Installed-Size}} KiB installed\\n' {DAEMON} {CLIENT} \
             2>/dev/null || true"
        )));
        let pid = broker.daemon().expect("the daemon runs");
        let status = broker.sh(&format!("grep -E '^(VmRSS|VmHWM|Threads):' /proc/{pid}/status"));
        assert!(status.contains("VmRSS"), "{status}");
        saw(&status);
        let clients = broker.run(&["knockd", "status"]).success().stdout;
        saw(clients.lines().find(|line| line.contains("client")).unwrap_or_default());
    });
}

/// How exposed a unit is, as systemd counts it.
#[track_caller]
pub(crate) fn exposure(machine: &Machine, unit: &str) -> f64 {
    let text = machine.sh(&format!("systemd-analyze security --no-pager {unit}"));
    let line = text.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
    saw(line.trim());
    let level = line.rsplit(": ").next().and_then(|rest| rest.split_whitespace().next());
    level.and_then(|level| level.parse().ok()).expect("a number")
}
