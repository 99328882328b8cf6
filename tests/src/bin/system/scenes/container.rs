//! A host that is an unprivileged container: its users are a user namespace's, and it may make no more namespaces.

use crate::lan::{self, Found, MQTTS};
use crate::machine::{Setup, Users};
use crate::probes::Probes;
use crate::report::saw;
use crate::rootfs::Release;
use crate::scenes::Stage;
use crate::scenes::elsewhere::Elsewhere;
use crate::wait::wait;

/// What an admin of such a container copies, as the example says.
const EXAMPLE: &str = "install -D -m 644 -t /etc/systemd/system/knockd.service.d \
                       /usr/share/doc/knockd-spa/examples/no-namespaces.conf; systemctl daemon-reload";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let report = &mut *stage.report;
    let booted = report.check("a container with users of its own boots, with the package in it", || {
        let setup = Setup { users: Users::Own, ..Setup::of(Release::Trixie) };
        let other = Elsewhere::boot("contained", setup, |machine| {
            Elsewhere::in_image(machine);
            machine.in_image("systemctl --quiet disable knockd.service knockd.socket knockd-firewall.service");
        });
        other.is(Found::Open);
        other.machine.limit_namespaces("mnt", 1);
        other
    });
    let Some(other) = booted else { return };
    let machine = &other.machine;
    report.check(
        "where no sandbox can be had, the table goes in without one, and it is told why",
        || {
            machine.run(&["systemctl", "enable", "knockd"]).success();
            let failed = machine.run(&["systemctl", "start", "knockd-firewall"]);
            assert!(!failed.is_success(), "it had its sandbox: {failed}");
            wait("the table is in", || {
                lan::other_broker().map(|address| lan::connect(address, MQTTS))
                    == [Found::Silence; 2]
            });
            assert_eq!(machine.show("knockd-firewall-plain.service", "ActiveState"), "active");
            let why =
                machine.sh("journalctl -q -b -u knockd-firewall-plain -o cat | grep 'could not'");
            saw(why.trim());
            assert!(why.contains("make no namespaces"), "{why}");
        },
    );
    report.check("another ruleset that is loaded leaves the port shut", || {
        machine.write(
            "/etc/systemd/system/nftables.service.d/none.conf",
            "[Service]\nProtectSystem=no\nProtectHome=no\n",
        );
        machine.run(&["systemctl", "daemon-reload"]).success();
        machine.run(&["systemctl", "start", "nftables"]).success();
        let probes = Probes::at(lan::other_broker());
        machine.run(&["systemctl", "reload", "nftables"]).success();
        machine.run(&["systemctl", "restart", "nftables"]).success();
        probes.stop().never_answered();
    });
    report.check(
        "with the drop-in of the examples the daemon runs, and a knock opens the port",
        || {
            machine.sh(EXAMPLE);
            machine.run(&["systemctl", "restart", "knockd"]).success();
            other.knock(&["--wait"]).success();
            other.is(Found::Open);
        },
    );
    if report.failures() > 0 {
        machine.show_logs();
    }
}
