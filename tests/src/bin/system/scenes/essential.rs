//! The essential scenes on Debian 12, on a host with a firewall of the admin's own.

use crate::lan::{self, Found};
use crate::machine::Setup;
use crate::packages::{CLIENT, DAEMON, NEWER, Version};
use crate::probes::Probes;
use crate::report::{Report, saw};
use crate::rootfs::Release;
use crate::scenes::Stage;
use crate::scenes::elsewhere::Elsewhere;
use crate::scenes::{install, untouched};
use crate::wait::wait;

/// The admin's ruleset, and how nftables.service loads it.
const RULESET: &str = "flush ruleset
table inet site {
\tchain in {
\t\ttype filter hook input priority 0; policy accept;
\t\ttcp dport 23 drop
\t}
}
";
const DROP_IN: &str = "[Service]\nExecStart=\nExecStart=/usr/sbin/nft -f /etc/firewall/site.nft\nExecReload=\nExecReload=/usr/sbin/nft -f /etc/firewall/site.nft\n";
/// A whole unit of the admin's own, which can't be reloaded.
const UNIT: &str = "[Unit]
DefaultDependencies=no
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/firewall/site.nft

[Install]
WantedBy=sysinit.target
";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let report = &mut *stage.report;
    let booted =
        report.check("Debian 12 boots, with a ruleset and a drop-in of the admin's", || {
            let other = Elsewhere::boot("twelve", Setup::of(Release::Bookworm), |machine| {
                machine.write("/etc/firewall/site.nft", RULESET);
                machine.write("/etc/systemd/system/nftables.service.d/10-site.conf", DROP_IN);
                machine.in_image("systemctl --quiet enable nftables; rm /etc/nftables.conf");
            });
            other.is(Found::Open);
            other
        });
    let Some(mut other) = booted else { return };
    report.check("apt installs the packages, and everything is as it was", || {
        let machine = &other.machine;
        let before = untouched::facts(machine);
        install::install(machine, DAEMON, Version::Current);
        install::install(machine, CLIENT, Version::Current);
        let packed =
            machine.sh(&format!("dpkg -L {DAEMON} {CLIENT}; echo /var/lib/knock; echo /etc/knock"));
        untouched::compare(&before, &untouched::facts(machine), &packed);
        machine.run(&["systemctl", "restart", "nftables"]).success();
        site_is_in(&other);
        other.is(Found::Open);
    });
    report.check("enabled, it shuts the port, and a knock opens it", || {
        other.enrol();
        other.machine.run(&["systemctl", "enable", "--now", "knockd"]).success();
        other.is(Found::Silence);
        wait("a knock is taken", || other.knock(&["--wait=1s"]).is_success());
        close(&other);
    });
    change(report, &other, "the admin's drop-in", &["reload", "restart"]);
    report.check("a unit of the admin's own takes its place", || {
        other.machine.sh("systemctl stop nftables; rm -r /etc/systemd/system/nftables.service.d");
        other.machine.write("/etc/systemd/system/nftables.service", UNIT);
        other.machine.sh("systemctl daemon-reload; systemctl enable nftables");
        assert_eq!(other.machine.show("nftables.service", "CanReload"), "no");
    });
    change(report, &other, "the admin's unit", &["start", "restart"]);
    report.check("an upgrade never shows the port, and leaves the admin's firewall", || {
        let before = other.machine.daemon().expect("the daemon runs");
        let probes = Probes::at(lan::other_broker());
        install::install(&other.machine, DAEMON, Version::Newer);
        other.machine.until_daemon_is_another(before);
        probes.stop().never_answered();
        let status = "${Version}";
        assert_eq!(other.machine.sh(&format!("dpkg-query -W -f '{status}' {DAEMON}")), NEWER);
        site_is_in(&other);
    });
    report.check("a reboot shows the port to nobody after the network is up", || {
        let took = other.machine.reboot();
        other.until_reachable();
        saw(&format!("rebooted in {:.1} s", took.as_secs_f64()));
        other.is(Found::Silence);
        site_is_in(&other);
        wait("a knock after the reboot is taken", || other.knock(&["--wait=1s"]).is_success());
    });
    report.check("purged, it leaves the admin's firewall, and nothing of its own", || {
        let machine = &other.machine;
        machine.run(&["apt-get", "purge", "-q", "-y", DAEMON, CLIENT]).success();
        site_is_in(&other);
        other.is(Found::Open);
        let tables = machine.sh("nft list tables");
        assert!(!tables.contains("knockd"), "{tables}");
        let left = machine.sh(
            "find / -xdev \\( -path /srv -o -path /proc -o -path /var/log -o -path /var/cache \\) -prune -o -iname '*knock*' -print; \
             { getent passwd knockd; getent group knockd knockd-keys knockd-readers; } || true",
        );
        assert_eq!(left, "", "left behind");
    });
    if report.failures() > 0 {
        other.machine.show_logs();
    }
}

/// The admin's rules are there, whatever else is.
#[track_caller]
fn site_is_in(other: &Elsewhere) {
    let ruleset = other.machine.sh("nft list ruleset");
    assert!(ruleset.contains("table inet site"), "the host's own firewall is gone: {ruleset}");
}

/// What the admin loads himself goes in as he says, and the table is in again when that is done.
fn change(report: &mut Report, other: &Elsewhere, by: &str, verbs: &[&str]) {
    for verb in verbs {
        report.check(
            &format!("`systemctl {verb} nftables` runs {by}, and the port is shut after it"),
            || {
                other.machine.run(&["systemctl", verb, "nftables"]).success();
                other.is(Found::Silence);
                site_is_in(other);
                other.machine.run(&["knockd", "firewall", "status"]).success();
            },
        );
    }
}

#[track_caller]
fn close(other: &Elsewhere) {
    other.knock(&["--close"]).success();
    wait("the door is shut again", || {
        lan::other_broker().map(|address| lan::connect(address, lan::MQTTS)) == [Found::Silence; 2]
    });
}
