//! Other tools load, reload and stop their rulesets, with the daemon alive and with it dead.

use std::time::Duration;

use crate::lan::{Found, broker_is};
use crate::machine::Machine;
use crate::probes::Probes;
use crate::report::Report;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock};

/// Whether the daemon runs meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Alive,
    Dead,
}

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    // A door that an earlier scene left open.
    broker.run(&["knockd", "revoke", "press-17"]).success();
    for daemon in [Daemon::Alive, Daemon::Dead] {
        // As Debian ships it: it flushes the whole ruleset first. firewalld, where it starts, stops it.
        broker.run(&["systemctl", "start", "nftables"]).success();
        if daemon == Daemon::Dead {
            // Stopped with its socket, which would wake it.
            broker.run(&["systemctl", "stop", "knockd.socket", "knockd.service"]).success();
        }
        for verb in ["reload", "restart", "stop", "start"] {
            change(report, broker, daemon, "nftables", &["systemctl", verb, "nftables"]);
        }
        ufw(report, broker, daemon);
        firewalld(report, broker, daemon);
        if daemon == Daemon::Dead {
            broker.run(&["systemctl", "start", "knockd.socket", "knockd.service"]).success();
        }
    }
    broker.run(&["systemctl", "start", "nftables"]).success();
    report.check("a knock passes right after `systemctl reload nftables`", || {
        broker.run(&["systemctl", "reload", "nftables"]).success();
        knock(&["--wait"]).success();
        close();
    });
    report.check("a nftables.conf that nft refuses fails the reload, and changes nothing", || {
        let theirs = broker.run(&["cat", "/etc/nftables.conf"]).success().stdout;
        broker.write("/etc/nftables.conf", &format!("{theirs}\ntabel ip wrong {{}}\n"));
        let probes = Probes::start();
        let reload = broker.run(&["systemctl", "reload", "nftables"]);
        broker.write("/etc/nftables.conf", &theirs);
        probes.stop().never_answered();
        assert!(!reload.is_success(), "the reload succeeded");
        broker.run(&["knockd", "firewall", "status"]).success();
    });
    report.check("a live grant outlives `systemctl reload nftables`", || {
        knock(&["--wait"]).success();
        broker.run(&["systemctl", "reload", "nftables"]).success();
        crate::wait::wait("the port is open to its holder", || {
            crate::lan::connect(crate::lan::broker()[0], crate::lan::MQTTS) == Found::Open
        });
        close();
    });
}

/// ufw with the ports allowed, as README.md says.
fn ufw(report: &mut Report, broker: &Machine, daemon: Daemon) {
    for port in ["8883/tcp", "62201/udp", "4321/tcp"] {
        broker.run(&["ufw", "allow", port]).success();
    }
    change(report, broker, daemon, "ufw", &["ufw", "--force", "enable"]);
    for verb in ["restart", "stop", "start"] {
        change(report, broker, daemon, "ufw", &["systemctl", verb, "ufw"]);
    }
    change(report, broker, daemon, "ufw", &["ufw", "reload"]);
    opens(report, broker, daemon, "ufw");
    broker.run(&["ufw", "--force", "reset"]).success();
    broker.run(&["systemctl", "stop", "ufw"]).success();
}

/// firewalld likewise.
fn firewalld(report: &mut Report, broker: &Machine, daemon: Daemon) {
    change(report, broker, daemon, "firewalld", &["systemctl", "start", "firewalld"]);
    for port in ["8883/tcp", "62201/udp", "4321/tcp"] {
        broker
            .run(&["firewall-cmd", "--quiet", "--permanent", &format!("--add-port={port}")])
            .success();
    }
    change(report, broker, daemon, "firewalld", &["firewall-cmd", "--quiet", "--reload"]);
    change(report, broker, daemon, "firewalld", &["systemctl", "reload", "firewalld"]);
    opens(report, broker, daemon, "firewalld");
    for verb in ["restart", "stop"] {
        change(report, broker, daemon, "firewalld", &["systemctl", verb, "firewalld"]);
    }
}

/// One change of another firewall: the port is shut all the time, and the table whole when the command returns.
fn change(report: &mut Report, broker: &Machine, daemon: Daemon, unit: &str, argv: &[&str]) {
    let shown = argv.join(" ");
    report.check(&format!("`{shown}` with the daemon {daemon:?}: the port never shows"), || {
        let probes = Probes::start();
        std::thread::sleep(Duration::from_millis(100));
        broker.run(argv).success();
        if daemon == Daemon::Alive {
            // What its watch mends, it mends within moments.
            std::thread::sleep(Duration::from_millis(100));
        }
        broker_is(Found::Silence);
        let status = broker.run(&["knockd", "firewall", "status"]).success();
        let seen = probes.stop();
        seen.never_answered();
        assert!(!status.stdout.is_empty(), "no status after {unit}");
    });
}

/// A knock passes both firewalls.
fn opens(report: &mut Report, _broker: &Machine, daemon: Daemon, unit: &str) {
    if daemon == Daemon::Alive {
        report.check(&format!("behind {unit} with the port allowed, a knock opens it"), || {
            knock(&["--wait"]).success();
            broker_is(Found::Open);
            close();
        });
    }
}
