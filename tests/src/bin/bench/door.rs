//! `knockd`, with its configuration, as it is measured.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use knockd::firewall::reader::Reader;
use tempfile::TempDir;

use crate::fleet::{self, KNOCK_PORT, SERVICE_PORT};
use crate::rig::{DAEMON_CORE, Side};
use crate::running::Running;

/// How long the start of a daemon with a million clients may take before it counts as failed.
const START_LIMIT: Duration = Duration::from_mins(3);

/// `knockd` as configured.
pub(crate) struct Door {
    dir: TempDir,
    binary: PathBuf,
    skew: Duration,
}

/// What differs from one measurement to the next.
pub(crate) struct Settings<'a> {
    pub(crate) devices: u32,
    pub(crate) skew: Duration,
    /// More of knockd.toml.
    pub(crate) tables: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { devices: 1, skew: Duration::from_secs(30), tables: "" }
    }
}

impl Door {
    /// Configures it; nothing runs yet.
    pub(crate) fn new(binary: &Path, settings: &Settings<'_>) -> Self {
        let dir = TempDir::with_prefix("knock-bench-").expect("make a temporary directory");
        fleet::write_clients(&dir.path().join("clients.d"), settings.devices);
        fs::create_dir(dir.path().join("state")).expect("make the state folder");
        let text = format!(
            "listen = [\"[::]:{KNOCK_PORT}\"]\nclients = \"clients.d\"\nstate = \"{0}/state\"\n\
             control = \"{0}/control.sock\"\nclock-skew = \"{1}ms\"\n\n\
             [[service]]\nname = \"mqtts\"\nports = [\"tcp/{SERVICE_PORT}\"]\n\n{2}\n",
            dir.path().display(),
            settings.skew.as_millis(),
            settings.tables
        );
        let door = Self { dir, binary: binary.to_owned(), skew: settings.skew };
        fs::write(door.config(), text).expect("write knockd.toml");
        door
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("knockd.toml")
    }

    /// A command of `knockd` with this configuration.
    pub(crate) fn run(&self, args: &[&str]) -> e2e::Output {
        let config = self.config();
        let mut all = vec!["--config", config.to_str().expect("UTF-8")];
        all.extend_from_slice(args);
        Side::Broker.run(self.binary.to_str().expect("UTF-8"), &all, "")
    }

    /// Starts the daemon on its own core, waits until it listens, and for the first moment at which a packet
    /// of a device whose clock is ahead by (almost) the skew is accepted.
    pub(crate) fn start(&self) -> Daemon {
        self.start_on(DAEMON_CORE)
    }

    /// The same on another core.
    pub(crate) fn start_on(&self, core: usize) -> Daemon {
        let start = Instant::now();
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.config()).arg("run");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        command.env_remove("JOURNAL_STREAM");
        let log = self.dir.path().join("knockd.log");
        let mut process = Running::start(Side::Broker, Some(core), command, &log);
        process.wait_for("listening", START_LIMIT);
        let loading = start.elapsed();
        let bound = now() + millis(self.skew);
        sleep(Duration::from_millis(50));
        Daemon { process, loading, bound }
    }
}

impl Drop for Door {
    /// The table must not stand when the next one is measured.
    fn drop(&mut self) {
        Side::Broker.run("nft", &["delete", "table", "inet", "knockd"], "");
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) process: Running,
    /// From the start of the process to its saying that it listens.
    pub(crate) loading: Duration,
    /// Without a memory of its own it accepts nothing stamped at or before this.
    bound: u64,
}

impl Daemon {
    /// A stamp that is accepted now, and for a skew from now.
    pub(crate) fn stamp(&self) -> u64 {
        now().max(self.bound + 5)
    }

    /// Waits until packets stamped with the time itself are accepted.
    pub(crate) fn wait_out(&self) {
        while now() <= self.bound + 5 {
            sleep(Duration::from_millis(5));
        }
    }
}

/// The addresses that the kernel's door is open for now.
pub(crate) fn open_doors() -> Vec<Ipv4Addr> {
    Side::Broker.within(None, || {
        let elements = Reader::open().and_then(|mut reader| reader.elements("door4", usize::MAX));
        let elements = elements.expect("read the set of doors").expect("all of them");
        elements
            .iter()
            .filter_map(|element| Some(Ipv4Addr::from(*element.key.first_chunk::<4>()?)))
            .collect()
    })
}

/// Datagrams that reached the knock port's sockets and found no room.
pub(crate) fn socket_drops() -> u64 {
    Side::Broker.within(None, || {
        let port = format!(":{KNOCK_PORT:04X}");
        ["udp", "udp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
            .flat_map(|table| {
                let rows = table.lines().filter(|row| {
                    row.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port))
                });
                rows.filter_map(|row| row.split_whitespace().last()?.parse::<u64>().ok())
                    .collect::<Vec<_>>()
            })
            .sum()
    })
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a time that fits")
}
