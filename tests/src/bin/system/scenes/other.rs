//! Debian has a package `knockd` by somebody else, with programs and a unit of the same names. Ours takes its place.

use crate::lan::{Found, broker_is};
use crate::packages::{DAEMON, Version};
use crate::report::saw;
use crate::rootfs::OTHER;
use crate::scenes::Stage;
use crate::scenes::install::install;

const UNITS: [&str; 3] = ["knockd.service", "knockd.socket", "knockd-firewall.service"];

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    // If the scene before was left out; otherwise dpkg says that there is nothing to purge.
    broker.run(&["dpkg", "--purge", DAEMON]).success();
    report.check("Debian's knockd gives way, and nothing of it is enabled for ours", || {
        broker.run(&["apt-get", "install", "-q", "-y", "--no-install-recommends", OTHER]).success();
        broker.run(&["systemctl", "enable", "knockd"]).success();
        saw(&format!("before: knockd.service {}", broker.show("knockd.service", "UnitFileState")));
        install(broker, DAEMON, Version::Current);
        let status = "${db:Status-Status}";
        let other = broker.sh(&format!("dpkg-query -W -f '{status}' knockd"));
        assert_eq!(other, "config-files", "the other one is removed, its configuration is there");
        for unit in UNITS {
            assert_eq!(broker.show(unit, "UnitFileState"), "disabled", "{unit}");
            assert_eq!(broker.show(unit, "ActiveState"), "inactive", "{unit}");
        }
        broker_is(Found::Open);
    });
    report.check("purging what it left, as the installation says, leaves ours as it is", || {
        broker.run(&["apt-get", "purge", "-q", "-y", "knockd"]).success();
        broker.run(&["systemctl", "enable", "--now", "knockd"]).success();
        for unit in UNITS {
            assert_eq!(broker.show(unit, "UnitFileState"), "enabled", "{unit}");
            assert_eq!(broker.show(unit, "ActiveState"), "active", "{unit}");
        }
        broker_is(Found::Silence);
    });
    report.check(
        "installed again after a removal, it is as it was; purged, the port is open",
        || {
            broker.run(&["apt-get", "remove", "-q", "-y", DAEMON]).success();
            broker_is(Found::Open);
            install(broker, DAEMON, Version::Current);
            for unit in UNITS {
                assert_eq!(broker.show(unit, "UnitFileState"), "enabled", "{unit}");
            }
            broker.run(&["apt-get", "purge", "-q", "-y", DAEMON]).success();
            broker_is(Found::Open);
            let links = broker.sh("find /etc/systemd /var/lib/systemd -name '*knockd*'");
            assert_eq!(links, "", "left behind");
        },
    );
}
