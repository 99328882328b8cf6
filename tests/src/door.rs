//! `knockd` on the broker's host: its configuration, its devices, and the daemon itself.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::binaries;
use crate::clock::FakeClock;
use crate::counters::Counters;
use crate::process::{Output, Process};
use crate::until::until;
use crate::world::{Host, World};

/// The port of the knocks.
pub const KNOCK_PORT: u16 = 62201;
/// The port of the broker.
pub const MQTTS: u16 = 8883;

/// A skew wide enough that a replay isn't merely stale, in seconds.
pub const WIDE: u64 = 20;
const AHEAD_S: u64 = 19;
/// Arguments of the foreign client for a clock almost [`WIDE`] ahead of the daemon's.
pub const AHEAD: [&str; 2] = ["--clock-offset", "19"];

/// What a test has to say about knockd.toml; the rest is the same for all.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// The allowed clock skew, in seconds: short, because a daemon without a memory of its own
    /// accepts nothing stamped before its start plus this.
    pub skew: u64,
    /// The `[[service]]` tables.
    pub services: &'a str,
    /// All other tables.
    pub tables: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            skew: 1,
            services: "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n",
            tables: "",
        }
    }
}

/// `knockd` as installed on the broker's host, or on another.
#[derive(Debug)]
pub struct Door<'w> {
    world: &'w World,
    host: Host<'w>,
    dir: PathBuf,
    skew: Duration,
}

impl<'w> Door<'w> {
    /// Writes the configuration; nothing runs yet, and the firewall is as it was.
    pub fn new(world: &'w World, settings: &Settings<'_>) -> Self {
        Self::on(world.broker(), settings)
    }

    /// Writes a configuration as [`Self::new`] does, for a host that need not be the broker's.
    pub fn on(host: Host<'w>, settings: &Settings<'_>) -> Self {
        let world = host.world();
        let folder = match host.name() {
            "broker" => "knockd".to_owned(),
            other => format!("knockd-{other}"),
        };
        let dir = world.dir().join(folder);
        for part in ["clients.d", "state"] {
            fs::create_dir_all(dir.join(part)).expect("make knockd's folders");
        }
        let door = Self { world, host, dir, skew: Duration::from_secs(settings.skew) };
        door.configure(settings);
        door
    }

    /// Writes the configuration anew.
    pub fn configure(&self, settings: &Settings<'_>) {
        let text = format!(
            "listen = [\"[::]:{KNOCK_PORT}\"]\nclients = \"clients.d\"\nstate = \"{0}/state\"\n\
             control = \"{0}/control.sock\"\nclock-skew = \"{1}s\"\n\n{2}\n{3}",
            self.dir.display(),
            settings.skew,
            settings.services,
            settings.tables
        );
        fs::write(self.config(), text).expect("write knockd.toml");
    }

    /// Gives a key that stands before all tables another value, in TOML.
    pub fn set(&self, key: &str, value: &str) {
        let text = fs::read_to_string(self.config()).expect("read knockd.toml");
        let others = text.lines().filter(|line| !line.starts_with(&format!("{key} =")));
        let text: Vec<&str> = others.collect();
        let text = format!("{key} = {value}\n{}\n", text.join("\n"));
        fs::write(self.config(), text).expect("write knockd.toml");
    }

    /// Takes a key's line out of knockd.toml.
    pub fn unset(&self, key: &str) {
        let text = fs::read_to_string(self.config()).expect("read knockd.toml");
        let others = text.lines().filter(|line| !line.starts_with(&format!("{key} =")));
        fs::write(self.config(), others.collect::<Vec<_>>().join("\n")).expect("write knockd.toml");
    }

    /// The path of knockd.toml.
    pub fn config(&self) -> PathBuf {
        self.dir.join("knockd.toml")
    }

    /// The folder with the clients' entries.
    pub fn clients(&self) -> PathBuf {
        self.dir.join("clients.d")
    }

    /// The folder with the daemon's memory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The folder that a service manager makes for the daemon below /run.
    pub fn runtime(&self) -> PathBuf {
        self.dir.join("knockd-state")
    }

    /// The path of the control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Runs a command of `knockd` with this configuration.
    pub fn run(&self, args: &[&str]) -> Output {
        let (knockd, config) = (binaries::path("knockd"), self.config());
        let mut argv = vec![knockd.as_str(), "--config", text(&config)];
        argv.extend_from_slice(args);
        self.host.run(&argv)
    }

    /// Runs a command of `knockd` as [`Self::run`] does, by another clock.
    pub fn run_by(&self, clock: &FakeClock, args: &[&str]) -> Output {
        let (knockd, config, env) = (binaries::path("knockd"), self.config(), clock.env());
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.host.run_with(
            &[&[knockd.as_str(), "--config", text(&config)], args].concat(),
            &env,
            "",
        )
    }

    /// Enrols a device for the service `mqtts`.
    #[track_caller]
    pub fn enrol(&self, name: &str) -> Device<'w> {
        self.enrol_with(name, &["--service", "mqtts"])
    }

    /// Enrols a device with these options of `knockd client add`, and keeps what that prints as
    /// the device's profile, as it is.
    #[track_caller]
    pub fn enrol_with(&self, name: &str, options: &[&str]) -> Device<'w> {
        let mut args = vec!["client", "add", name, "--server", "broker:62201"];
        args.extend_from_slice(options);
        let printed = self.run(&args).success().stdout;
        let profile = self.world.dir().join(format!("{name}.toml"));
        write_private(&profile, &printed);
        Device { world: self.world, profile }
    }

    /// Starts the daemon, and waits until it listens.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.spawn().listening()
    }

    /// Starts the daemon as it is installed, which tells nothing below info, and waits until it would accept
    /// a packet made now: for floods, of which a line for each packet would be most of the work.
    #[track_caller]
    pub fn ready_as_installed(&self) -> Daemon {
        let daemon = self.spawn_telling("info", &[]).listening();
        daemon.wait_out(self.skew);
        daemon
    }

    /// Starts the daemon, and waits until it would accept a packet made now: without an intact
    /// memory that is when start + skew has passed (PROTOCOL.md, "What is remembered").
    #[track_caller]
    pub fn ready(&self) -> Daemon {
        let daemon = self.start();
        daemon.wait_out(self.skew);
        daemon
    }

    /// Starts the daemon, and waits until it would accept a packet of a device whose clock is
    /// ahead by [`AHEAD`]; for tests that want a wide skew and not to wait for it.
    #[track_caller]
    pub fn ready_for_ahead(&self) -> Daemon {
        let daemon = self.start();
        daemon.wait_out_ahead(self);
        daemon
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&self) -> Daemon {
        self.spawn_telling("debug", &[])
    }

    /// Starts the daemon as [`Self::ready_as_installed`] does, and waits as [`Self::ready_for_ahead`] does.
    #[track_caller]
    pub fn ready_for_ahead_as_installed(&self) -> Daemon {
        let daemon = self.spawn_telling("info", &[]).listening();
        daemon.wait_out_ahead(self);
        daemon
    }

    /// Starts the daemon with a clock of its own, which shows the right time still, and waits as
    /// [`Self::ready_for_ahead`] does.
    #[track_caller]
    pub fn ready_for_ahead_by(&self, clock: &FakeClock) -> Daemon {
        let env = clock.env();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let daemon = self.spawn_telling("debug", &env).listening();
        daemon.wait_out_ahead(self);
        daemon
    }

    /// Starts the daemon with these variables in its environment, and waits until it listens.
    #[track_caller]
    pub fn start_with(&self, env: &[(&str, &str)]) -> Daemon {
        self.spawn_telling("debug", env).listening()
    }

    fn spawn_telling(&self, level: &str, env: &[(&str, &str)]) -> Daemon {
        let (knockd, config) = (binaries::path("knockd"), self.config());
        let argv = [knockd.as_str(), "--config", text(&config), "run"];
        let process = self.host.spawn(&argv, &[&[("KNOCKD_LOG", level)], env].concat());
        Daemon { process, listening_since: now() }
    }

    /// Waits until every grant is over, as the kernel has it: a probe that is lost on a busy
    /// machine doesn't tell.
    #[track_caller]
    pub fn wait_until_over(&self) {
        until("every grant is over", || self.grants().is_empty());
    }

    /// The grants that `knockd grants --json` lists.
    #[track_caller]
    pub fn grants(&self) -> Vec<serde_json::Value> {
        let answer = self.run(&["grants", "--json"]).success().json();
        answer["grants"]
            .as_array()
            .unwrap_or_else(|| panic!("no list of grants in {answer}"))
            .clone()
    }
}

/// A running `knockd`.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    listening_since: Duration,
}

impl Daemon {
    #[track_caller]
    fn listening(mut self) -> Self {
        self.process.wait_for("listening");
        self.listening_since = now();
        self
    }

    /// Its process id, outside the namespaces.
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// The memory that it has in use, in KiB.
    #[track_caller]
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("read a process' status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("a resident set size")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it has logged one line that contains all of these.
    #[track_caller]
    pub fn tells(&self, parts: &[&str]) {
        until(&format!("knockd tells {parts:?}"), || self.has_told(parts));
    }

    /// Whether it has logged one line that contains all of these.
    pub fn has_told(&self, parts: &[&str]) -> bool {
        self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// Waits until it has told so many refusals for this reason.
    #[track_caller]
    pub fn refuses(&self, reason: &str, times: usize) {
        let reason = format!("reason=\"{reason}\"");
        until(&format!("knockd refuses {times} times with {reason}"), || {
            let told = self.log().lines().filter(|line| line.contains(&reason)).count();
            assert!(told <= times, "{told} refusals with {reason}, expected {times}");
            told == times
        });
    }

    /// How many doors it says it has opened.
    pub fn granted(&self) -> usize {
        self.log().lines().filter(|line| line.contains("decision=\"granted\"")).count()
    }

    /// Waits until this time has passed since it began to listen.
    pub fn wait_out(&self, time: Duration) {
        // Stamps are whole milliseconds: one more, to be above the mark.
        let end = self.listening_since + time + Duration::from_millis(2);
        until(&format!("{time:?} have passed since the start"), || now() > end);
    }

    /// Waits until a packet of a device whose clock is ahead by [`AHEAD`] would be accepted.
    pub fn wait_out_ahead(&self, door: &Door<'_>) {
        self.wait_out(door.skew - Duration::from_secs(AHEAD_S));
    }

    /// What the kernel of its host counts.
    pub fn counters(&self) -> Counters {
        Counters::of(&self.process)
    }

    /// Has it apply a changed configuration.
    pub fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Stops it for as long as `meanwhile` takes: what arrives then waits, and is taken as one batch.
    pub fn frozen(&self, meanwhile: impl FnOnce()) {
        self.pause();
        meanwhile();
        self.resume();
    }

    /// Stops it where it is, until [`Self::resume`].
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Ends it as `kill -9` does; returns what it had logged.
    pub fn kill9(mut self) -> String {
        self.process.kill9();
        self.log()
    }

    /// Ends it with SIGTERM, and insists on a clean end; returns what it had logged.
    #[track_caller]
    pub fn terminate(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait();
        assert!(status.success(), "knockd ended with {status} on SIGTERM:\n{}", self.log());
        self.log()
    }

    /// Waits until it ends by itself, and says with which code.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        self.process.wait().code()
    }
}

/// A device with a profile for `knock`.
#[derive(Debug, Clone)]
pub struct Device<'w> {
    world: &'w World,
    profile: PathBuf,
}

impl<'w> Device<'w> {
    /// The path of its knock.toml.
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// Its key, in base64.
    #[track_caller]
    pub fn key(&self) -> String {
        let text = fs::read_to_string(&self.profile).expect("read the profile");
        let line = text.lines().find(|line| line.trim_start().starts_with("key ="));
        line.and_then(|line| line.split('"').nth(1)).expect("a key in the profile").to_owned()
    }

    /// Runs `knock` with this profile on a host.
    pub fn knock(&self, host: Host<'_>, options: &[&str]) -> Output {
        let knock = binaries::path("knock");
        let mut argv = vec![knock.as_str(), "--config", text(&self.profile)];
        argv.extend_from_slice(options);
        host.run(&argv)
    }

    /// Runs `knock` as [`Self::knock`] does, by a clock of its own.
    pub fn knock_by(&self, clock: &FakeClock, host: Host<'_>, options: &[&str]) -> Output {
        let knock = binaries::path("knock");
        let argv = [&[knock.as_str(), "--config", text(&self.profile)], options].concat();
        let env = clock.env();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        host.run_with(&argv, &env, "")
    }

    /// Knocks from the client's host over IPv4, and waits until the port is open.
    #[track_caller]
    pub fn opens(&self, options: &[&str]) -> Output {
        let options = [&["-4", "--wait=20s"], options].concat();
        self.knock(self.world.client(), &options).success()
    }
}

/// Writes a file that its owner alone may read.
pub fn write_private(path: &Path, content: &str) {
    fs::write(path, content).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set a file's mode");
}

/// Where the MQTT service is, over IPv4.
pub fn broker4(world: &World) -> IpAddr {
    world.broker().v4()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
