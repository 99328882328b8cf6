//! What it takes, and how exposed it is.

use crate::packages::{CLIENT, DAEMON};
use crate::report::saw;
use crate::scenes::Stage;

/// The highest exposure that passes, as `systemd-analyze security` counts it: 0 to 10.
const EXPOSURE: f64 = 1.5;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    report.check(&format!("the running unit's exposure is {EXPOSURE} at most"), || {
        let text = broker.sh("systemd-analyze security --no-pager knockd.service");
        let line =
            text.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
        saw(line.trim());
        let level = line.split(':').nth(1).and_then(|rest| rest.split_whitespace().next());
        let level: f64 = level.and_then(|level| level.parse().ok()).expect("a number");
        if level > EXPOSURE {
            text.lines().filter(|line| line.trim_start().starts_with('✗')).for_each(saw);
        }
        assert!(level <= EXPOSURE, "{level} is above {EXPOSURE}");
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
