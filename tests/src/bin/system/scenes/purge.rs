//! The packages go, and leave nothing.

use std::collections::BTreeSet;

use crate::lan::{Found, broker_is};
use crate::machine::Machine;
use crate::packages::DAEMON;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::file;

/// Where files come and go on any machine that runs.
const UNRELATED: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/srv/packages",
    "/var/lib/mosquitto",
    "/etc/ufw",
    "/var/lib/ucf",
    "/root",
    "/usr/lib/python3",
    "/etc/firewalld",
    "/usr/share/python3",
    "/var/lib/ufw",
    "/var/lib/private",
    "/var/lib/prometheus",
];

/// Remembers what there was before the packages came.
pub(crate) fn remember(machine: &Machine) {
    std::fs::write(file("before.txt"), state(machine)).expect("write a file");
}

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    report.check(
        "removed, it takes the door out, says which port is open now, and keeps its configuration",
        || {
            let removed = broker.run(&["apt-get", "remove", "-q", "-y", DAEMON]).success();
            removed.stdout.lines().filter(|line| line.contains("knockd")).for_each(saw);
            assert!(removed.stdout.contains("tcp/8883 is now open"), "{removed}");
            broker_is(Found::Open);
            assert!(
                broker.run(&["test", "-e", "/etc/knockd/knockd.toml"]).is_success(),
                "conffiles stay"
            );
        },
    );
    report.check(
        "purged, it leaves no rule, user, group, unit or file, and the port is as before",
        || {
            let purged = broker.run(&["apt-get", "purge", "-q", "-y", DAEMON]).success();
            purged.stdout.lines().filter(|line| line.contains("knockd")).for_each(saw);
            let ruleset = broker.run(&["nft", "list", "ruleset"]).success().stdout;
            assert!(!ruleset.contains("knockd"), "a rule is left: {ruleset}");
            broker_is(Found::Open);
            let before =
                std::fs::read_to_string(file("before.txt")).expect("what there was before");
            let before: BTreeSet<_> = before.lines().map(str::to_owned).collect();
            let after = state(broker);
            let left: Vec<_> = after.lines().filter(|line| !before.contains(*line)).collect();
            assert!(left.is_empty(), "left behind: {left:#?}");
            for place in
                ["/run", "/var/log", "/var/lib/systemd", "/var/lib/private", "/etc/systemd"]
            {
                let named =
                    broker.sh(&format!("find {place} -iname '*knock*' 2>/dev/null || true"));
                assert_eq!(named, "", "left in {place}");
            }
        },
    );
    report.check("and its units are gone from systemd", || {
        let units = broker.sh("systemctl list-units --all --no-legend --plain 'knock*' || true");
        assert_eq!(units, "", "units that systemd still knows");
    });
}

/// All files, users and groups.
fn state(machine: &Machine) -> String {
    let prune: Vec<_> = UNRELATED.iter().map(|path| format!("-path {path}")).collect();
    machine.sh(&format!(
        "find / -xdev \\( {} \\) -prune -o -print; getent passwd | cut -d: -f1 | sed 's/^/user /'; \
         getent group | cut -d: -f1 | sed 's/^/group /'",
        prune.join(" -o ")
    ))
}
