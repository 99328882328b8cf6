//! The world: hosts that are network namespaces, joined by a wire.
//!
//! One anchor process holds a user, network, mount and process namespace. The hosts' network
//! namespaces live inside. The anchor reads from a pipe that this process holds: when the pipe
//! closes, for whatever reason, the anchor ends, and being the first process of its process
//! namespace, takes everything in the world with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::process::{Output, Process};
use crate::until::until_some;

/// Who can be on the wire, and the last number of their addresses there.
const HOSTS: [(&str, u8); 5] =
    [("broker", 1), ("client", 2), ("attacker", 3), ("friend", 4), ("home", 5)];

/// Variables that would make a daemon under test believe that systemd runs it.
const SYSTEMD: [&str; 6] = [
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "NOTIFY_SOCKET",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
];

/// A set of hosts on one wire (10.77.0.0/24 and fd77::/64), gone when dropped.
#[derive(Debug)]
pub struct World {
    anchor: Child,
    /// The anchor's process id outside.
    pid: u32,
    dir: TempDir,
    logs: AtomicU32,
}

impl World {
    /// A world with `broker`, `client` and `attacker` on the wire.
    pub fn new() -> Self {
        Self::with(&["broker", "client", "attacker"])
    }

    /// A world with these hosts on the wire.
    pub fn with(hosts: &[&str]) -> Self {
        let dir = TempDir::with_prefix("knock-e2e-").expect("make a temporary directory");
        let names: String = HOSTS
            .iter()
            .map(|(name, n)| format!("10.77.0.{n} {name}\nfd77::{n} {name}\n"))
            .collect();
        let names_file = dir.path().join("hosts");
        fs::write(&names_file, format!("127.0.0.1 localhost\n::1 localhost\n{names}"))
            .expect("write the hosts file");
        // An empty resolv.conf: a name that isn't in the hosts file is unknown at once.
        let script = format!(
            "mount -t tmpfs tmpfs /run && mount --bind '{0}/hosts' /etc/hosts && : >'{0}/resolv.conf' \
             && {{ mount --bind '{0}/resolv.conf' /etc/resolv.conf || true; }} && echo ready && exec cat",
            dir.path().display()
        );
        let mut anchor = Command::new("unshare")
            .args(["--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start `unshare` (package util-linux)");
        let mut line = String::new();
        BufReader::new(anchor.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("read from the anchor");
        assert_eq!(
            line, "ready\n",
            "cannot make namespaces: does this system allow `unshare -rnm` to this user?"
        );
        let children = format!("/proc/{0}/task/{0}/children", anchor.id());
        let pid = until_some("the anchor runs", || {
            fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        });
        let world = Self { anchor, pid, dir, logs: AtomicU32::new(0) };
        world.wire(hosts);
        world
    }

    /// Plugs the hosts into a bridge that floods multicast as a plain switch does.
    fn wire(&self, hosts: &[&str]) {
        self.ip(
            None,
            "link add wire type bridge mcast_snooping 0\nlink set wire up\nlink set lo up",
        );
        for &host in hosts {
            let n = number(host);
            self.ip(
                None,
                &format!(
                    "netns add {host}\n\
                     link add {host} type veth peer name eth0 netns {host}\n\
                     link set {host} master wire up"
                ),
            );
            self.ip(
                Some(host),
                &format!(
                    "link set lo up\nlink set eth0 up\n\
                     addr add 10.77.0.{n}/24 broadcast 10.77.0.255 dev eth0\n\
                     addr add fd77::{n}/64 dev eth0 nodad"
                ),
            );
        }
    }

    /// Runs a batch of `ip` commands on a host, or (`None`) where the wire is.
    #[track_caller]
    pub fn ip(&self, host: Option<&str>, batch: &str) {
        Output::of(self.enter(host, &["ip", "-batch", "-"]), batch, batch).success();
    }

    /// A host of this world.
    pub fn host(&self, name: &'static str) -> Host<'_> {
        Host { world: self, name }
    }

    /// The broker's host.
    pub fn broker(&self) -> Host<'_> {
        self.host("broker")
    }

    /// The client's host.
    pub fn client(&self) -> Host<'_> {
        self.host("client")
    }

    /// The attacker's host.
    pub fn attacker(&self) -> Host<'_> {
        self.host("attacker")
    }

    /// A folder for this world's files; everyone in the world sees it under the same name.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the switch is: whoever listens here sees every packet of the wire.
    pub(crate) fn on_the_wire(&self, argv: &[&str], name: &str) -> Process {
        self.spawn_as(self.enter(None, argv), name)
    }

    fn spawn_as(&self, command: Command, name: &str) -> Process {
        let n = self.logs.fetch_add(1, Ordering::Relaxed);
        let log = |stream: &str| -> PathBuf { self.dir().join(format!("{n}-{name}.{stream}")) };
        Process::start(command, name, log("out"), log("err"))
    }

    /// A command inside the world's namespaces and a host's network.
    fn enter(&self, host: Option<&str>, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid.to_string(), "--user", "--mount", "--pid"])
            .arg("--preserve-credentials")
            .arg(host.map_or("--net".to_owned(), |host| {
                format!("--net=/proc/{}/root/run/netns/{host}", self.pid)
            }))
            // Entering a mount namespace goes to its root.
            .args(["--", "env", "--chdir"])
            .arg(self.dir())
            .args(argv);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
        command.env("LC_ALL", "C.UTF-8");
        for variable in SYSTEMD {
            command.env_remove(variable);
        }
        command
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.anchor.stdin.take());
        let _ = self.anchor.wait();
        if std::thread::panicking() {
            show_logs(self.dir());
        }
    }
}

/// Shows what the processes of a failed test had to say.
fn show_logs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = fs::read(&path).unwrap_or_default();
        let is_log = path.extension().is_some_and(|e| e == "err" || e == "out");
        if is_log && !text.is_empty() {
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- {}\n{tail}", path.file_name().unwrap_or_default().display());
        }
    }
}

fn number(host: &str) -> u8 {
    HOSTS.iter().find(|(name, _)| *name == host).map(|(_, n)| *n).unwrap_or_else(|| {
        panic!("no host on the wire is called {host:?}");
    })
}

/// A host of a [`World`].
#[derive(Debug, Clone, Copy)]
pub struct Host<'w> {
    world: &'w World,
    name: &'static str,
}

impl<'w> Host<'w> {
    /// Its name, which resolves to its addresses in the whole world.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The world it is part of.
    pub fn world(self) -> &'w World {
        self.world
    }

    /// Its IPv4 address on the wire.
    pub fn v4(self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, number(self.name)).into()
    }

    /// Its IPv6 address on the wire.
    pub fn v6(self) -> IpAddr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number(self.name).into()).into()
    }

    /// Runs a command to its end (60 seconds at most).
    pub fn run(self, argv: &[&str]) -> Output {
        self.run_with(argv, &[], "")
    }

    /// Runs a command to its end, with variables in its environment and text on standard input.
    pub fn run_with(self, argv: &[&str], env: &[(&str, &str)], input: &str) -> Output {
        let limited: Vec<&str> = ["timeout", "60"].iter().chain(argv).copied().collect();
        let mut command = self.world.enter(Some(self.name), &limited);
        command.envs(env.iter().copied());
        Output::of(command, input, &format!("{}$ {}", self.name, argv.join(" ")))
    }

    /// Starts a process that runs until it is ended or dropped.
    pub fn spawn(self, argv: &[&str], env: &[(&str, &str)]) -> Process {
        let mut command = self.world.enter(Some(self.name), argv);
        command.envs(env.iter().copied());
        let program = Path::new(argv[0]).file_name().unwrap_or_default().to_string_lossy();
        self.world.spawn_as(command, &format!("{}-{program}", self.name))
    }

    /// Loads rules into this host's own firewall.
    #[track_caller]
    pub fn nft(self, rules: &str) {
        self.run_with(&["nft", "-f", "-"], &[], rules).success();
    }

    /// This host's whole ruleset, without counters' values.
    #[track_caller]
    pub fn ruleset(self) -> String {
        self.run(&["nft", "--stateless", "list", "ruleset"]).success().stdout
    }
}
