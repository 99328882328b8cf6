//! A machine: Debian booted by systemd-nspawn with a network of its own, on a layer above a kept root file system.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::Output;

use crate::inside;
use crate::lan::{self, WIRE};
use crate::packages::Packages;
use crate::rootfs::Release;
use crate::wait::{wait, wait_some};

/// Where a machine sees the packages.
pub(crate) const PACKAGES: &str = "/srv/packages";
/// How long a command in a machine may take, in seconds.
const LIMIT: &str = "150";
/// How systemd-nspawn ends with --keep-unit when the machine in it reboots: whoever started it is to do so again.
const REBOOTS: i32 = 133;

/// What kind of machine it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) release: Release,
    pub(crate) root: Root,
    pub(crate) users: Users,
}

/// Whether its root file system can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Writable,
    ReadOnly,
}

/// Whose users its users are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// The kernel's own.
    Host,
    /// Those of a user namespace, as in an unprivileged container: its limits on namespaces are its own as well.
    Own,
}

impl Setup {
    /// An ordinary machine.
    pub(crate) const fn of(release: Release) -> Self {
        Self { release, root: Root::Writable, users: Users::Host }
    }
}

/// A booted machine, ended when dropped.
pub(crate) struct Machine {
    name: &'static str,
    number: u8,
    setup: Setup,
    disk: PathBuf,
    console: PathBuf,
    nspawn: Option<Child>,
}

impl Machine {
    /// Puts a disk in, and switches on: an ordinary machine with Debian 13.
    #[track_caller]
    pub(crate) fn boot(name: &'static str, number: u8) -> Self {
        Self::boot_as(Setup::of(Release::Trixie), name, number, |_| ())
    }

    /// Puts a disk in, on which `before` may change something, and switches on.
    #[track_caller]
    pub(crate) fn boot_as(
        setup: Setup,
        name: &'static str,
        number: u8,
        before: impl FnOnce(&Self),
    ) -> Self {
        let folder = inside::folder().join(name);
        let [upper, work, disk] = ["upper", "work", "disk"].map(|part| folder.join(part));
        for part in [&upper, &work, &disk] {
            fs::create_dir_all(part).expect("make a machine's folder");
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            setup.release.path().display(),
            upper.display(),
            work.display()
        );
        inside::run(&["mount", "-t", "overlay", "overlay", "-o", &layers, disk.to_str().unwrap()]);
        let console = folder.join("console");
        let mut machine = Self { name, number, setup, disk, console, nspawn: None };
        machine.prepare();
        before(&machine);
        machine.switch_on();
        machine
    }

    /// What an installer would have asked for: a name, an address, what runs from the beginning.
    fn prepare(&self) {
        let address = self.number;
        self.write("/etc/hostname", &format!("{}\n", self.name));
        // A machine that has been booted before: on a first boot systemd would enable every service that there is.
        self.write("/etc/machine-id", &format!("{address:032x}\n"));
        self.write("/etc/hosts", &lan::hosts());
        self.write(
            "/etc/systemd/network/10-host0.network",
            &format!(
                "[Match]\nName=host0\n\n[Network]\nAddress={}/24\nAddress={}/64\nGateway={}\n\
                 LinkLocalAddressing=no\nIPv6AcceptRA=no\n\n[Link]\nRequiredForOnline=yes\n",
                lan::v4(address),
                lan::v6(address),
                lan::v4(lan::DEVICES)
            ),
        );
        // Where the packages are seen: on a disk that can't be written, nobody else makes it.
        fs::create_dir_all(self.disk.join(PACKAGES.trim_start_matches('/')))
            .expect("make a folder");
        let disk = self.disk.to_str().unwrap();
        let systemctl = |args: &[&str]| {
            inside::run(&[&["systemctl", "--quiet", "--root", disk][..], args].concat());
        };
        systemctl(&["enable", "systemd-networkd.service"]);
        for service in [
            "firewalld",
            "ufw",
            "nftables",
            "mosquitto",
            "prometheus",
            "docker.service",
            "docker.socket",
            "containerd",
            "systemd-timesyncd",
        ] {
            // Each scene starts what it is about.
            if disk_has_unit(&self.disk, service) {
                inside::run(&["chroot", disk, "systemctl", "--quiet", "disable", service]);
            }
        }
    }

    /// Runs a line of shell on its disk before it is switched on, as who makes an image does: without /proc.
    #[track_caller]
    pub(crate) fn in_image(&self, script: &str) -> String {
        let disk = self.disk.to_str().unwrap();
        inside::run(&["chroot", disk, "sh", "-ec", script]).stdout
    }

    /// Copies the packages onto its disk, for [`Self::in_image`].
    pub(crate) fn give_packages(&self) -> PathBuf {
        let folder = self.disk.join("srv/image");
        fs::create_dir_all(&folder).expect("make a folder on a machine's disk");
        for entry in fs::read_dir(Packages::folder()).expect("list the packages").flatten() {
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("copy a package");
        }
        PathBuf::from("/srv/image")
    }

    fn switch_on(&mut self) {
        let console = File::create(&self.console).expect("create the console's log");
        let mut command = Command::new("systemd-nspawn");
        // Debian 13 doesn't boot with control groups of version 1.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        if self.setup.root == Root::ReadOnly {
            command.args(["--read-only", "--tmpfs=/tmp"]);
        }
        if self.setup.users == Users::Own {
            command.arg("--private-users=identity");
        }
        command
            .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"])
            .arg(format!("--directory={}", self.disk.display()))
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-bridge={WIRE}"))
            .arg(format!("--bind-ro={}:{PACKAGES}", Packages::folder().display()))
            .arg(format!("--uuid={:032x}", self.number))
            // What the host mounts and settles isn't the machine's business.
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("a second handle"))
            .stderr(console);
        let nspawn =
            command.spawn().expect("start `systemd-nspawn` (tests/system-setup.sh installs it)");
        self.nspawn = Some(nspawn);
        self.wait_until_up();
    }

    /// Waits until all that boots with the machine has started.
    #[track_caller]
    fn wait_until_up(&mut self) {
        let name = self.name;
        wait(&format!("the machine {name} has booted"), || {
            let ended = self.nspawn.as_mut().expect("switched on").try_wait().expect("wait");
            assert!(
                ended.is_none(),
                "systemd-nspawn can't boot a machine here ({ended:?}):\n{}",
                self.said()
            );
            if self.leader().is_none() {
                return false;
            }
            let state = self.run(&["systemctl", "is-system-running"]).stdout;
            // Debian's own units don't all start on a disk that can't be written.
            if self.setup.root == Root::ReadOnly && state.trim() == "degraded" {
                return true;
            }
            assert_ne!(
                state.trim(),
                "degraded",
                "a unit of {name} failed at boot:\n{}",
                self.run(&["systemctl", "--no-pager", "--failed"]).stdout
            );
            state.trim() == "running"
        });
    }

    /// The first process in it, by its id here.
    fn leader(&self) -> Option<u32> {
        let nspawn = self.nspawn.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// What the console said.
    fn said(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// `systemctl reboot`, until it is up again. Takes how long that was.
    #[track_caller]
    pub(crate) fn reboot(&mut self) -> Duration {
        let start = Instant::now();
        // It may be ended by what it asks for: whether that comes is seen below.
        let asked = self.run(&["systemctl", "reboot"]);
        let name = self.name;
        let code = wait_some(&format!("the machine {name} has gone down"), || {
            let nspawn = self.nspawn.as_mut().expect("switched on");
            nspawn.try_wait().expect("wait for a child").map(|status| status.code())
        });
        assert_eq!(code, Some(REBOOTS), "systemd-nspawn ended: {asked}\n{}", self.said());
        self.switch_on();
        start.elapsed()
    }

    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// The hardware's address of its network card, by which its answers are known.
    #[track_caller]
    pub(crate) fn card(&self) -> String {
        self.sh("cat /sys/class/net/host0/address").trim().to_owned()
    }

    /// Runs a command in it.
    pub(crate) fn run(&self, argv: &[&str]) -> Output {
        self.run_with(argv, "")
    }

    /// Runs a command in it, with this on its standard input.
    pub(crate) fn run_with(&self, argv: &[&str], input: &str) -> Output {
        let shown = format!("{}# {}", self.name, argv.join(" "));
        let Some(leader) = self.leader() else {
            return Output {
                command: shown,
                code: None,
                stdout: String::new(),
                stderr: "switched off".into(),
            };
        };
        let mut command = Command::new("timeout");
        command.args([LIMIT, "nsenter", "--target", &leader.to_string()]);
        if self.setup.users == Users::Own {
            command.arg("--user");
        }
        command.args([
            "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/", "--",
        ]);
        command.args(argv);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("HOME", "/root"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("SYSTEMD_COLORS", "0"),
            ("SYSTEMD_PAGER", ""),
        ]);
        Output::of(command, input, &shown)
    }

    /// Sets how many namespaces of a kind ("mnt", "user") the users of a machine with users of its own may make.
    #[track_caller]
    pub(crate) fn limit_namespaces(&self, kind: &str, most: u32) {
        assert_eq!(self.setup.users, Users::Own, "the limit would be that of this whole machine");
        let leader = self.leader().expect("switched on").to_string();
        // The limit is that of the user namespace that writes it; this /proc can be written.
        let write = format!("echo {most} >/proc/sys/user/max_{kind}_namespaces");
        inside::run(&["nsenter", "--user", "--target", &leader, "sh", "-ec", &write]);
    }

    /// Runs a line of shell in it, and panics with what it said if it fails. Takes what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-ec", script]).success().stdout
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let output = self.run(&["systemctl", "show", "--value", "-p", property, unit]).success();
        output.stdout.trim().to_owned()
    }

    /// The daemon's process id as systemd knows it, when it is there.
    pub(crate) fn daemon(&self) -> Option<i32> {
        let pid = self.show("knockd.service", "MainPID").parse().ok()?;
        (pid > 0).then_some(pid)
    }

    /// Waits until a unit is active, with another main process than this.
    #[track_caller]
    pub(crate) fn until_daemon_is_another(&self, before: i32) -> i32 {
        wait_some("knockd.service has another main process", || {
            let pid = self.daemon().filter(|pid| *pid != before)?;
            (self.show("knockd.service", "ActiveState") == "active").then_some(pid)
        })
    }

    /// Writes a file on its disk.
    pub(crate) fn write(&self, path: &str, content: &str) {
        self.write_as(path, content, 0o644);
    }

    /// Writes a file on its disk, with this mode.
    pub(crate) fn write_as(&self, path: &str, content: &str, mode: u32) {
        let path = self.disk.join(path.trim_start_matches('/'));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).expect("make a folder on a machine's disk");
        }
        let mut file =
            File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.set_permissions(fs::Permissions::from_mode(mode)).expect("set a file's mode");
        file.write_all(content.as_bytes()).expect("write a file on a machine's disk");
    }

    /// Shows the end of the journal and the console, for a failed run.
    pub(crate) fn show_logs(&self) {
        println!("--- the last of {}'s journal", self.name);
        println!(
            "{}",
            self.run(&["journalctl", "--no-pager", "-q", "-n", "60", "-o", "short-precise"]).stdout
        );
        let said = self.said();
        if !said.is_empty() {
            println!("--- {}'s console\n{said}", self.name);
        }
    }
}

/// Whether a unit of this name, a service unless it says otherwise, is on a disk.
fn disk_has_unit(disk: &Path, name: &str) -> bool {
    let file = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    disk.join("usr/lib/systemd/system").join(&file).exists()
        || disk.join("lib/systemd/system").join(&file).exists()
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With users of its own it would outlive systemd-nspawn.
        if let Some(leader) = self.leader().and_then(|leader| i32::try_from(leader).ok()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(leader),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        if let Some(mut nspawn) = self.nspawn.take() {
            // It ends its machine with it: the first process of a process namespace.
            let _ = nspawn.kill();
            let _ = nspawn.wait();
        }
        // Its network is taken down behind its last process, and answers in its addresses until then: another machine
        // may have them next.
        let wire = format!("vb-{}:", self.name);
        for _ in 0..1_000 {
            if !fs::read_to_string("/proc/self/net/dev").is_ok_and(|text| text.contains(&wire)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        println!("    … the machine {} is off, and its network is still there", self.name);
    }
}
