//! Where everything runs: two network namespaces, broker and device, joined by a veth pair.
//!
//! The program runs itself again inside new network, mount and process namespaces: whatever happens, all
//! that it started ends with it, and nothing that it sends can leave them. It needs real root, not that
//! of a user namespace: a receive buffer beyond net.core.rmem_max, and peers that change their user.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use e2e::Output;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::{Pid, Uid};

/// The broker's address.
pub(crate) const BROKER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The device's own address; many others of 10.0.0.0/8 are its as well.
pub(crate) const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The core of whoever sends at line rate.
pub(crate) const SENDER_CORE: usize = 0;
/// The core of the daemon meanwhile.
pub(crate) const DAEMON_CORE: usize = 1;

const INSIDE: &str = "KNOCK_BENCH_INSIDE";

/// Makes sure that this process is inside namespaces of its own: the first time, it doesn't return.
pub(crate) fn enter() {
    assert!(Uid::effective().is_root(), "the benchmark needs root");
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("own path");
        let error = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(own)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            // `cargo run` sets it, and every dynamic program would search those folders first.
            .env_remove("LD_LIBRARY_PATH")
            .exec();
        panic!("cannot start `unshare` (package util-linux): {error}");
    }
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    let batch = "netns add broker\nnetns add device\n\
         link add eth0 netns broker type veth peer name eth0 netns device";
    run_with("ip", &["-batch", "-"], batch);
    for (side, address) in [(Side::Broker, BROKER), (Side::Device, DEVICE)] {
        side.ip(&format!("link set lo up\nlink set eth0 up\naddr add {address}/8 dev eth0"));
    }
    // Forged sources are in 10.0.0.0/8 as well: no filter by reverse path, so that nothing but the door
    // decides about them.
    Side::Broker.within(None, || {
        for scope in ["all", "eth0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter");
            fs::write(path, "0").expect("set rp_filter");
        }
    });
}

/// One end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Broker,
    Device,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Device => "device",
        }
    }

    /// Makes the calling thread, and all that it starts, part of this end.
    pub(crate) fn join(self, core: Option<usize>) {
        let namespace = File::open(Path::new("/run/netns").join(self.name())).expect("a namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
        if let Some(core) = core {
            let mut set = CpuSet::new();
            set.set(core).expect("a core's number");
            sched_setaffinity(Pid::from_raw(0), &set).expect("pin a thread");
        }
    }

    /// Does something at this end, pinned to a core if one is given.
    pub(crate) fn within<T: Send>(self, core: Option<usize>, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join(core);
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a process at this end.
    pub(crate) fn spawn(self, core: Option<usize>, command: &mut Command) -> Child {
        let shown = format!("{command:?}");
        self.within(core, || command.stdin(Stdio::null()).spawn())
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"))
    }

    /// Runs a command to its end at this end.
    pub(crate) fn run(self, program: &str, args: &[&str], input: &str) -> Output {
        self.within(None, || output(program, args, input))
    }

    /// Runs a batch of `ip` commands.
    pub(crate) fn ip(self, batch: &str) {
        self.run("ip", &["-batch", "-"], batch).success();
    }
}

/// Makes an address of the device its default towards the broker, so that every client program knocks and
/// connects from it.
pub(crate) fn device_is(address: Ipv4Addr) {
    Side::Device.ip(&format!(
        "addr replace {address}/32 dev eth0\nroute replace {BROKER}/32 dev eth0 src {address}"
    ));
}

fn run(program: &str, args: &[&str]) {
    run_with(program, args, "");
}

fn run_with(program: &str, args: &[&str], input: &str) {
    output(program, args, input).success();
}

fn output(program: &str, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(args).env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    Output::of(command, input, &format!("{program} {}", args.join(" ")))
}
