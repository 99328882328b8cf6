//! One more broker's host, in other circumstances than the first: another release, a disk that can't be written, a
//! container without rights. What is behind its door is a server that accepts.

use e2e::Output;
use e2e::door::write_private;

use crate::lan::{self, Found, MQTTS, OTHER_BROKER, UNGUARDED};
use crate::machine::{Machine, Setup};
use crate::packages::{DAEMON, Packages, Version};
use crate::scenes::install::file;
use crate::wait::wait;

/// Accepts connections to the guarded port, over IPv4 and IPv6, from early on.
const SERVER: &str = "[Unit]
Description=what is behind the door
DefaultDependencies=no
After=local-fs.target

[Service]
ExecStart=/usr/bin/python3 -m http.server --bind :: 8883

[Install]
WantedBy=sysinit.target
";

/// That host.
pub(crate) struct Elsewhere {
    pub(crate) machine: Machine,
}

impl Elsewhere {
    /// Boots it under a name that no other has, with the server, and after `before` has seen its disk.
    #[track_caller]
    pub(crate) fn boot(name: &'static str, setup: Setup, before: impl FnOnce(&Machine)) -> Self {
        let machine = Machine::boot_as(setup, name, OTHER_BROKER, |machine| {
            machine.write("/etc/systemd/system/server.service", SERVER);
            machine.in_image("systemctl --quiet enable server.service");
            before(machine);
        });
        let other = Self { machine };
        other.until_reachable();
        wait("the server listens", || {
            !other.machine.run(&["ss", "-Hltn", "sport = :8883"]).stdout.is_empty()
        });
        other
    }

    /// Waits until its network is up, so that silence says something: another one had these addresses before, and
    /// whoever answers now is this one.
    #[track_caller]
    pub(crate) fn until_reachable(&self) {
        let card = self.machine.card();
        wait("a port without a door answers", || {
            lan::device(&["ip", "neigh", "flush", "all"]);
            lan::other_broker().map(|to| lan::connect(to, UNGUARDED)) == [Found::Refused; 2]
        });
        for address in lan::other_broker() {
            assert_eq!(lan::card(address).as_deref(), Some(card.as_str()), "who has {address}");
        }
    }

    /// Installs the daemon's package in an image, without /proc, enrols the device and enables the units.
    #[track_caller]
    pub(crate) fn in_image(machine: &Machine) {
        let package = Packages::file(&machine.give_packages(), DAEMON, Version::Current);
        machine.in_image(&format!("dpkg --install {package} >/dev/null"));
        let add = "knockd client add press-17 --service mqtts --server other";
        write_private(&file("other.toml"), &machine.in_image(add));
        machine.in_image("systemctl --quiet enable knockd.service");
    }

    /// Enrols the device on the running host.
    #[track_caller]
    pub(crate) fn enrol(&self) {
        let add =
            ["knockd", "client", "add", "press-17", "--service", "mqtts", "--server", "other"];
        write_private(&file("other.toml"), &self.machine.run(&add).success().stdout);
    }

    /// Knocks at it from the devices' host.
    pub(crate) fn knock(&self, options: &[&str]) -> Output {
        let (knock, profile) = (file("client/usr/bin/knock"), file("other.toml"));
        let argv = [knock.to_str().unwrap(), "--config", profile.to_str().unwrap()];
        lan::device(&[&argv[..], options].concat())
    }

    /// Panics unless its port is found so, over IPv4 and IPv6.
    #[track_caller]
    pub(crate) fn is(&self, found: Found) {
        for address in lan::other_broker() {
            let seen = lan::connect(address, MQTTS);
            assert!(
                seen == found,
                "tcp/{MQTTS} of {address}: {seen:?}, and not {found:?}; it answers with {:?}, and {} has {}:\n{}",
                lan::card(address),
                self.machine.name(),
                self.machine.card(),
                self.machine.run(&["nft", "list", "ruleset"]).stdout
            );
        }
    }
}
