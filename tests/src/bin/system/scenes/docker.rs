//! Beside a real Docker: Debian's docker.io, in a network namespace of its own on the wire, with the control groups of this
//! machine. A port that it publishes is guarded like one of the host's own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use e2e::Output;
use e2e::door::write_private;

use crate::inside;
use crate::lan::{self, Found, MQTTS, OTHER_BROKER, WIRE};
use crate::packages::{DAEMON, Packages, Version};
use crate::report::saw;
use crate::rootfs::Release;
use crate::scenes::Stage;
use crate::scenes::install::file;
use crate::wait::wait;

/// The network namespace.
const HOST: &str = "docker";
/// Where the containers' control groups are, in each hierarchy.
const GROUP: &str = "knock-system-docker";
/// An image of busybox alone, and a container that publishes the port.
const IMAGE: &str = "mkdir -p /srv/image/bin; cp /usr/bin/busybox /srv/image/bin; tar -C /srv/image -c . | docker import - box";
const RUN: &str =
    "docker run --detach --name server --publish 8883:8883 box /bin/busybox httpd -f -p 8883";

/// A host without systemd, whose programs run in the root file system of Debian 13.
struct Host {
    disk: PathBuf,
    children: Vec<Child>,
}

impl Host {
    fn make() -> Self {
        let folder = inside::folder().join(HOST);
        let [upper, work, disk] = ["upper", "work", "disk"].map(|part| folder.join(part));
        for part in [&upper, &work, &disk] {
            fs::create_dir_all(part).expect("make a folder");
        }
        let path = disk.to_str().unwrap();
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            Release::Trixie.path().display(),
            upper.display(),
            work.display()
        );
        inside::run(&["mount", "-t", "overlay", "overlay", "-o", &layers, path]);
        let devices = lan::v4(lan::DEVICES).to_string();
        let [v4, v6] =
            [format!("{}/24", lan::v4(OTHER_BROKER)), format!("{}/64", lan::v6(OTHER_BROKER))];
        for argv in [
            &["ip", "netns", "add", HOST][..],
            &["ip", "link", "add", "dock", "type", "veth", "peer", "name", "eth0", "netns", HOST],
            &["ip", "link", "set", "dock", "master", WIRE, "up"],
            &["ip", "-n", HOST, "link", "set", "lo", "up"],
            &["ip", "-n", HOST, "link", "set", "eth0", "up"],
            &["ip", "-n", HOST, "addr", "add", &v4, "dev", "eth0"],
            &["ip", "-n", HOST, "addr", "add", &v6, "dev", "eth0", "nodad"],
            // The way back to every device: a stranger's silence would say nothing without it.
            &["ip", "-n", HOST, "route", "add", "default", "via", &devices],
            &["mount", "-t", "proc", "proc", &format!("{path}/proc")],
            &["mount", "-t", "tmpfs", "tmpfs", &format!("{path}/run")],
            &["mount", "--rbind", "/dev", &format!("{path}/dev")],
        ] {
            inside::run(argv);
        }
        inside::run(&["mount", "-t", "sysfs", "sysfs", &format!("{path}/sys")]);
        inside::run(&["mount", "--rbind", "/sys/fs/cgroup", &format!("{path}/sys/fs/cgroup")]);
        Self { disk, children: Vec::new() }
    }

    fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", HOST, "chroot"]).arg(&self.disk).args(argv);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command
    }

    fn run(&self, argv: &[&str]) -> Output {
        Output::of(self.command(argv), "", &format!("docker# {}", argv.join(" ")))
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        self.run(&["timeout", "100", "sh", "-ec", script]).success().stdout
    }

    /// Starts a program that goes on.
    fn start(&mut self, argv: &[&str]) {
        let log = File::create(self.log(argv[0])).expect("create a log file");
        let mut command = self.command(argv);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.children.push(command.spawn().expect("start a program"));
    }

    /// Ends the program that was started last.
    fn end_last(&mut self) {
        let mut child = self.children.pop().expect("a program runs");
        child.kill().and_then(|()| child.wait()).expect("end a program");
    }

    fn log(&self, program: &str) -> PathBuf {
        self.disk.with_file_name(format!("{program}.log"))
    }

    /// The same from an address that no device has.
    fn stranger() -> Found {
        lan::connect_from(Some(lan::crowd(0xff00)), lan::v4(OTHER_BROKER).into(), MQTTS)
    }

    /// What a connection over IPv4 finds.
    fn found() -> Found {
        lan::connect(lan::v4(OTHER_BROKER).into(), MQTTS)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.run(&["timeout", "30", "docker", "rm", "--force", "server"]);
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = hierarchy.path().join(GROUP);
            if group.is_dir() {
                inside::remove_groups(&group);
            }
        }
        let unified = PathBuf::from("/sys/fs/cgroup").join(GROUP);
        if unified.is_dir() {
            inside::remove_groups(&unified);
        }
    }
}

pub(crate) fn play(stage: &mut Stage<'_>) {
    let report = &mut *stage.report;
    let started = report.check("Docker runs, and publishes a port to everyone", || {
        let mut host = Host::make();
        host.start(&["containerd"]);
        let parent = format!("--cgroup-parent=/{GROUP}");
        host.start(&[
            "dockerd",
            "--storage-driver=vfs",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            &parent,
        ]);
        wait("Docker answers", || host.run(&["timeout", "5", "docker", "info"]).is_success());
        saw(host.sh("docker version --format '{{.Server.Version}}'").trim());
        host.sh(IMAGE);
        host.sh(RUN);
        lan::device(&["ip", "neigh", "flush", "all"]);
        wait("the port is open", || Host::found() == Found::Open);
        assert_eq!(Host::stranger(), Found::Open);
        host
    });
    let Some(mut host) = started else { return };
    report.check("a published port is guarded, and a knock opens it", || {
        let package = Packages::file(&Packages::folder(), DAEMON, Version::Current);
        fs::copy(package, host.disk.join("srv/package.deb")).expect("copy the package");
        host.sh("dpkg --install /srv/package.deb");
        write_private(
            &file("docker.toml"),
            &host.sh("knockd client add press-17 --service mqtts --server other"),
        );
        host.sh("mkdir -p /run/knockd; knockd firewall install");
        assert_eq!(Host::found(), Found::Silence, "before the daemon runs");
        host.start(&["knockd", "run"]);
        wait("a knock is taken", || knock(&["-4", "--wait=1s"]).is_success());
        assert_eq!(Host::found(), Found::Open);
        assert_eq!(Host::stranger(), Found::Silence, "from another address");
        knock(&["-4", "--close"]).success();
        wait("the door is shut again", || Host::found() == Found::Silence);
    });
    report.check("what Docker changes later leaves it guarded", || {
        host.sh("docker restart --time 1 server");
        assert_eq!(Host::found(), Found::Silence);
        host.sh("knockd firewall status");
        wait("a knock opens the new container's port", || knock(&["-4", "--wait=1s"]).is_success());
    });
    report.check("without the table it is open to everyone: nothing else guarded it", || {
        host.end_last();
        host.sh("knockd firewall remove");
        wait("a stranger gets in", || Host::stranger() == Found::Open);
    });
    if report.failures() > 0 {
        for program in ["containerd", "dockerd", "knockd"] {
            let log = fs::read_to_string(host.log(program)).unwrap_or_default();
            println!("--- {program}\n{log}");
        }
    }
}

fn knock(options: &[&str]) -> Output {
    let (knock, profile) = (file("client/usr/bin/knock"), file("docker.toml"));
    let argv = [knock.to_str().unwrap(), "--config", profile.to_str().unwrap()];
    lan::device(&[&argv[..], options].concat())
}
