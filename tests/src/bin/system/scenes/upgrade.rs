//! A newer package is installed while devices knock.

use std::time::Duration;

use crate::knocks::RATE;
use crate::lan::{Found, broker_is};
use crate::machine::Machine;
use crate::packages::{DAEMON, NEWER, Version};
use crate::probes::Probes;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::change::is_whole;
use crate::scenes::install::{self, close, knock};

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    let name = format!("an upgrade under {RATE} knocks a second loses none, no grant and no ban");
    report.check(&name, || {
        knock(&["--wait", "--open-for=600s"]).success();
        broker
            .run(&["knockd", "ban", "192.0.2.99", "--for", "1h", "--reason", "before the upgrade"])
            .success();
        let (before, stream) = (broker.daemon().expect("the daemon runs"), stage.fleet.stream());
        std::thread::sleep(Duration::from_secs(2));
        install::install(broker, DAEMON, Version::Newer);
        let after = broker.until_daemon_is_another(before);
        std::thread::sleep(Duration::from_secs(2));
        let knocks = stream.stop();
        knocks.all_granted(broker);
        saw(&format!(
            "{} knocks at {:.0} a second, all granted; process {before} became {after}",
            knocks.count(),
            knocks.rate()
        ));
        broker_is(Found::Open);
        let bans = broker.run(&["knockd", "bans"]).success().stdout;
        assert!(bans.contains("192.0.2.99"), "the ban is gone: {bans}");
        assert_eq!(version(broker), NEWER);
        is_whole(broker);
    });
    report.check("an upgrade never shows the port", || {
        close();
        let before = broker.daemon().expect("the daemon runs");
        let probes = Probes::start();
        let again = ["apt-get", "install", "-q", "-y", "--reinstall", &newer()];
        broker.run(&again).success();
        broker.until_daemon_is_another(before);
        let seen = probes.stop();
        saw(&format!("{} connections meanwhile, none answered", seen.probes));
        seen.never_answered();
    });
    report.check(
        "and it leaves the admin's configuration and what is enabled as they were",
        || {
            for unit in ["knockd.service", "knockd.socket", "knockd-firewall.service"] {
                assert_eq!(broker.show(unit, "UnitFileState"), "enabled", "{unit}");
                assert_eq!(broker.show(unit, "ActiveState"), "active", "{unit}");
                assert_eq!(broker.show(unit, "NeedDaemonReload"), "no", "{unit}");
            }
            let client = broker.run(&["test", "-e", "/etc/knockd/clients.d/press-17.toml"]);
            client.success();
        },
    );
}

/// The newer package, as the machine sees it.
fn newer() -> String {
    use crate::packages::Packages;
    Packages::file(std::path::Path::new(crate::machine::PACKAGES), DAEMON, Version::Newer)
}

/// The installed version.
fn version(machine: &Machine) -> String {
    machine.sh(&format!("dpkg-query -W -f '${{Version}}' {DAEMON}"))
}
