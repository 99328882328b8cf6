//! Installed by apt, configured, enabled; then the first knock.

use std::path::{Path, PathBuf};
use std::process::Child;

use e2e::Output;
use e2e::door::write_private;

use crate::inside;
use crate::knocks::{self, grants};
use crate::lan::{self, BROKER, Found, MQTTS, broker_is};
use crate::machine::{Machine, PACKAGES};
use crate::packages::{CLIENT, DAEMON, Packages, Version};
use crate::probes::Probes;
use crate::report::saw;
use crate::scenes::{Stage, broker, purge, untouched};
use crate::wait::wait;

pub(crate) fn play(stage: &mut Stage<'_>) -> Option<()> {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    purge::remember(broker);
    unpack_client();
    write_private(&file("ca.crt"), &broker.sh(&format!("cat {}", broker::CA)));
    let mut standing = None;
    report.check(
        "apt installs the package, and no port is shut by that, nor anything else changed",
        || {
            let before = untouched::facts(broker);
            let probes = Probes::start();
            install(broker, DAEMON, Version::Current);
            let seen = probes.stop();
            let packed = broker.sh(&format!("dpkg -L {DAEMON}"));
            untouched::compare(&before, &untouched::facts(broker), &packed);
            saw(&format!(
                "{} of {} connections meanwhile were accepted",
                seen.open.len(),
                seen.probes
            ));
            assert!(
                seen.open.len() == seen.probes as usize && seen.refused.is_empty(),
                "the port was shut"
            );
            let tables = broker.run(&["nft", "list", "tables"]).success().stdout;
            assert!(!tables.contains("knockd"), "a table without being asked: {tables}");
            for unit in ["knockd.service", "knockd.socket", "knockd-firewall.service"] {
                assert_eq!(broker.show(unit, "ActiveState"), "inactive", "{unit}");
                assert_eq!(broker.show(unit, "UnitFileState"), "disabled", "{unit}");
            }
            standing = Some(subscribe(broker));
        },
    )?;
    report.check("devices are enrolled, and the configuration is sound", || {
        let add =
            ["knockd", "client", "add", "press-17", "--service", "mqtts", "--server", "broker"];
        let profile = broker.run(&add).success().stdout;
        write_private(&file("knock.toml"), &profile);
        write_clients(broker, knocks::FILE, &knocks::entries());
        saw(&broker.run(&["knockd", "check"]).success().stdout);
    })?;
    report.check("enabled, it shuts the port at once, and runs as its own user", || {
        let units = ["knockd-firewall", "knockd.socket", "knockd"];
        broker.run(&[&["systemctl", "enable", "--now"][..], &units].concat()).success();
        broker_is(Found::Silence);
        assert_eq!(broker.show("knockd.service", "ActiveState"), "active");
        let pid = broker.daemon().expect("the daemon runs").to_string();
        assert_eq!(
            broker.sh(&format!("ps -o user= -p {pid}")).trim(),
            "knockd",
            "the daemon's user"
        );
        let capabilities = broker.sh(&format!("grep CapEff /proc/{pid}/status"));
        // CAP_NET_ADMIN is number 12: capability.h.
        assert!(
            capabilities.trim().ends_with("\t0000000000001000"),
            "not only CAP_NET_ADMIN: {capabilities}"
        );
    })?;
    report.check("a first installation costs nothing: the first knock is taken at once", || {
        knock(&[]).success();
        wait("it is granted", || grants(broker).contains_key(&lan::v4(lan::DEVICES)));
        close();
    })?;
    report.check("a connection that stood before it was enabled ends, as README.md says", || {
        wait("the connection from before has ended", || established(broker).is_empty());
        if let Some(standing) = &mut standing {
            let _ = standing.kill();
            let _ = standing.wait();
        }
    });
    report.check("a knock opens the port for its sender, and for nobody else", || {
        knock(&["--wait"]).success();
        broker_is(Found::Open);
        let stranger = lan::connect_from(Some(lan::crowd(0xff00)), lan::v4(BROKER).into(), MQTTS);
        assert_eq!(stranger, Found::Silence, "from another address");
        saw(&broker.run(&["knockd", "grants"]).success().stdout);
    })?;
    report.check("a message is published over TLS through the door", || {
        let message = publish("hello").success();
        saw(&message.command);
    })
}

/// Has apt install a package from its file, without a word of warning.
#[track_caller]
pub(crate) fn install(machine: &Machine, package: &str, version: Version) {
    let file = Packages::file(Path::new(PACKAGES), package, version);
    let apt = ["apt-get", "install", "-q", "-y", "--no-install-recommends", &file];
    let output = machine.run(&apt).success();
    output.stdout.lines().filter(|line| line.starts_with("Setting up")).for_each(saw);
    for complaint in ["warning", "ailed", "rror"] {
        // Without a network apt reads the file as root: it says so, and it is no matter.
        let about_us = |line: &&str| line.contains(complaint) && !line.contains("_apt");
        let said = output.stdout.lines().chain(output.stderr.lines()).find(about_us);
        assert_eq!(said, None, "apt complains: {output}");
    }
}

/// Writes a file of clients, as its owner and mode are to be.
pub(crate) fn write_clients(machine: &Machine, path: &str, entries: &str) {
    let mode = "chown root:knockd-keys \"$0.new\"; chmod 640 \"$0.new\"; mv \"$0.new\" \"$0\"";
    machine
        .run_with(&["sh", "-ec", &format!("umask 077; cat >\"$0.new\"; {mode}"), path], entries)
        .success();
}

/// A file of the devices' host.
pub(crate) fn file(name: &str) -> PathBuf {
    inside::folder().join(name)
}

/// Unpacks the client's package for the devices' host.
fn unpack_client() {
    let package = Packages::file(&Packages::folder(), CLIENT, Version::Current);
    inside::run(&["dpkg-deb", "--extract", &package, file("client").to_str().unwrap()]);
}

/// Knocks from the devices' host, as the device press-17.
pub(crate) fn knock(options: &[&str]) -> Output {
    let (knock, profile) = (file("client/usr/bin/knock"), file("knock.toml"));
    let argv = [knock.to_str().unwrap(), "--config", profile.to_str().unwrap()];
    lan::device(&[&argv[..], options].concat())
}

/// Shuts the door again, and waits until it is.
#[track_caller]
pub(crate) fn close() {
    knock(&["--close"]).success();
    wait("the door is shut again", || {
        lan::broker().map(|address| lan::connect(address, MQTTS)) == [Found::Silence; 2]
    });
}

/// Publishes from the devices' host.
pub(crate) fn publish(message: &str) -> Output {
    let ca = file("ca.crt");
    let login = broker::login("broker", ca.to_str().unwrap());
    let argv = ["mosquitto_pub", "-q", "1", "-t", "press/17", "-m", message];
    lan::device(&[&["timeout", "10"][..], &argv, &login].concat())
}

/// A subscriber that stands.
fn subscribe(broker: &Machine) -> Child {
    let ca = file("ca.crt");
    let login = broker::login("broker", ca.to_str().unwrap());
    let argv = ["mosquitto_sub", "-k", "5", "-q", "1", "-t", "press/#"];
    let standing = lan::start(&[&argv[..], &login].concat(), &file("standing.log"));
    wait("a subscriber is connected", || !established(broker).is_empty());
    standing
}

/// The connections that stand at the broker's port.
fn established(broker: &Machine) -> String {
    broker.sh(&format!("ss -Htn state established 'sport = :{MQTTS}'"))
}
