//! A process that is measured: what it has used, and its end by its own id.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::Side;

/// A running process; killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it at one end, with its output in a file.
    pub(crate) fn start(side: Side, core: Option<usize>, mut command: Command, log: &Path) -> Self {
        let file = File::create(log).expect("create a log file");
        command.stdout(file.try_clone().expect("clone a file")).stderr(file);
        Self { child: side.spawn(core, &mut command), log: log.to_owned() }
    }

    /// Waits until its log has this text.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) {
        let start = Instant::now();
        while !self.log().contains(text) {
            let ended = self.child.try_wait().expect("wait for a child");
            assert!(ended.is_none(), "it ended without writing {text:?}:\n{}", self.log());
            assert!(start.elapsed() < limit, "no {text:?} in {limit:?}:\n{}", self.log());
            sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn log_path(&self) -> &Path {
        &self.log
    }

    /// The processor time that it has used, from the scheduler's own count in nanoseconds.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        tasks
            .flatten()
            .map(|task| {
                let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
                Duration::from_nanos(nanos.unwrap_or(0))
            })
            .sum()
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it ever was.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// How often it has gone to sleep and woken up again.
    pub(crate) fn wakeups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        tasks
            .flatten()
            // A thread that has ended meanwhile has none.
            .filter_map(|task| field(&task.path().join("status"), "voluntary_ctxt_switches:"))
            .sum()
    }

    /// Fails if it has ended: what is gone takes no memory, and would pass for small.
    fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        field(Path::new(&path), name)
            .unwrap_or_else(|| panic!("no {name} in {path}: has it ended?\n{}", self.log()))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Sends it SIGHUP.
    pub(crate) fn hang_up(&self) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGHUP).expect("send SIGHUP");
    }

    /// Ends it with SIGTERM, and after two seconds for good.
    pub(crate) fn end(mut self) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if self.child.try_wait().expect("wait for a child").is_some() {
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
