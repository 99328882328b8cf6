//! The namespaces that everything happens in. The program runs itself again as the first process of new network,
//! mount and process namespaces: when it ends, by its last line, a panic, Ctrl-C or kill -9, the kernel ends all that
//! it started, and takes the interfaces, tables and mounts away. What is left then is made away with here: the
//! control groups that systemd-nspawn makes, and the folder with the machines' files.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use e2e::binaries::repository;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;

use crate::lan;

const INSIDE: &str = "KNOCK_SYSTEM_INSIDE";
/// How the control groups and folders of a run are called, before its process id.
const PREFIX: &str = "knock-system-";

/// Whether this process is already the one inside.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The folder of this run's files: the machines' disks, the consoles' logs.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os(INSIDE).map(PathBuf::from).expect("the folder that the run outside has made")
}

/// Where the system test keeps what the next run needs again.
pub(crate) fn cache() -> PathBuf {
    repository().join("target/system")
}

/// Prepares what needs the outside, runs this program again inside, and cleans up after it.
pub(crate) fn run_inside(prepare: impl FnOnce()) -> ExitCode {
    assert!(
        Uid::effective().is_root(),
        "the system test boots a whole Debian, and needs root: sudo make test-system"
    );
    prepare();
    sweep();
    let run = Run::begin();
    // Blocked here, waited for below: one thread, and no handler.
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD];
    let signals: SigSet = signals.into_iter().collect();
    signals.thread_block().expect("block signals");
    let mut child = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(std::env::current_exe().expect("own path"))
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &run.folder)
        // `cargo run` sets it, and every dynamic program would search those folders first.
        .env_remove("LD_LIBRARY_PATH")
        .spawn()
        .expect("start `unshare` (package util-linux)");
    let code = loop {
        match signals.wait().expect("wait for a signal") {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait().expect("wait for a child") {
                    break status.code().or(status.signal().map(|signal| 128 + signal));
                }
            }
            signal => {
                eprintln!("\n{signal}: ending the machines");
                end(&mut child);
                break Some(128 + signal as i32);
            }
        }
    };
    drop(run);
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Ends `unshare`, with which everything inside ends.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// What a run leaves outside of its namespaces, gone when dropped.
struct Run {
    folder: PathBuf,
    /// Where this process was before, in each hierarchy, and its own group.
    groups: Vec<(PathBuf, PathBuf)>,
}

impl Run {
    fn begin() -> Self {
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = cache().join(&name);
        fs::create_dir_all(&folder).expect("make the run's folder");
        // systemd-nspawn makes its groups beside this process's own.
        let mut groups = Vec::new();
        for (root, group) in own_groups() {
            let old = root.join(group);
            let own = old.join(&name);
            fs::create_dir_all(&own)
                .and_then(|()| fs::write(own.join("cgroup.procs"), "0"))
                .unwrap_or_else(|error| panic!("{}: {error}", own.display()));
            groups.push((old, own));
        }
        Self { folder, groups }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for (old, own) in &self.groups {
            let _ = fs::write(old.join("cgroup.procs"), "0");
            remove_groups(own);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// This process's control groups, each with where its hierarchy is mounted: of those that a systemd uses.
fn own_groups() -> Vec<(&'static Path, String)> {
    let of_self = fs::read_to_string("/proc/self/cgroup").expect("read the own control groups");
    let group = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((hierarchy(controllers)?, path.trim_start_matches('/').to_owned()))
    };
    of_self.lines().filter_map(group).collect()
}

/// Where the hierarchy that a systemd uses is mounted: the unified one, and the named one of version 1.
fn hierarchy(controllers: &str) -> Option<&'static Path> {
    let candidates: &[&'static str] = match controllers {
        "" => &["/sys/fs/cgroup/unified", "/sys/fs/cgroup"],
        "name=systemd" => &["/sys/fs/cgroup/systemd"],
        _ => &[],
    };
    let mounted = |path: &&&str| Path::new(path).join("cgroup.procs").exists();
    candidates.iter().find(mounted).map(Path::new)
}

/// Removes a control group and those in it, if no process is in any: such a removal fails.
pub(crate) fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    // The kernel takes a moment to forget processes that were killed.
    for _ in 0..50 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Removes the folders and control groups of runs that were ended by kill -9.
fn sweep() {
    for folder in left_in(&cache()) {
        let _ = fs::remove_dir_all(folder);
    }
    for (root, group) in own_groups() {
        left_in(&root.join(group)).iter().for_each(|left| remove_groups(left));
    }
}

/// What runs that are over have left in a folder.
fn left_in(folder: &Path) -> Vec<PathBuf> {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let pid = name.as_deref().and_then(|name| name.strip_prefix(PREFIX)).map(str::to_owned);
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_left).collect()
}

/// The first steps inside: the signals as they were, a /run and names of its own.
pub(crate) fn begin() {
    SigSet::all().thread_unblock().expect("unblock signals");
    let hosts = folder().join("hosts");
    fs::write(&hosts, lan::hosts()).expect("write a file of names");
    for argv in [
        &["mount", "--make-rprivate", "/"][..],
        &["mount", "-t", "tmpfs", "tmpfs", "/run"],
        &["mount", "--bind", hosts.to_str().expect("a path in UTF-8"), "/etc/hosts"],
        &["ip", "link", "set", "lo", "up"],
    ] {
        run(argv);
    }
}

/// Runs a command of this machine, where the wire is, and panics with what it said if it fails.
#[track_caller]
pub(crate) fn run(argv: &[&str]) -> e2e::Output {
    let mut command = Command::new(argv[0]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(&argv[1..]).env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    e2e::Output::of(command, "", &argv.join(" ")).success()
}
