//! Commands and long-running processes on a host of the world.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::until::{until, until_some};

/// What a finished command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end, with `input` on its standard input.
    pub fn of(mut command: Command, input: &str, shown: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start `{shown}`: {e}"));
        // A command that doesn't read its input may be gone before it is written: no error.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("wait for a child");
        Self {
            command: shown.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it exited with 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Panics, with everything the command said, unless it exited with 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Panics, with everything the command said, unless it exited with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code, expected {code}, of {self}");
        self
    }

    /// Panics unless standard output and standard error together contain `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "expected to read {text:?} from {self}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("`{}` (exit {:?})", self.command, self.code);
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                write!(text, "\n--- {name}\n{}", stream.trim_end())?;
            }
        }
        f.write_str(&text)
    }
}

/// A process that runs on a host until it is ended or dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// `nsenter`, which waits for the real one.
    outer: Child,
    /// The process itself, by its id outside the namespace.
    pid: Pid,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`, whose only child is the process meant, writing its output to files named
    /// `out` and `err`.
    pub(crate) fn start(mut command: Command, name: &str, out: PathBuf, err: PathBuf) -> Self {
        let outer = command
            .stdin(Stdio::piped())
            .stdout(File::create(&out).expect("create a log file"))
            .stderr(File::create(&err).expect("create a log file"))
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        // It may be over already, as a command that refuses its configuration is: then the outer
        // process stands for it, and is only waited for.
        let pid = until_some(&format!("{name} has started"), || {
            let own = i32::try_from(outer.id()).expect("process id");
            match fs::read_to_string(&children) {
                Ok(list) if !list.trim().is_empty() => list.split_whitespace().next()?.parse().ok(),
                Ok(_) if is_running(own) => None,
                _ => Some(own),
            }
        });
        Self { name: name.to_owned(), outer, pid: Pid::from_raw(pid), out, err }
    }

    /// Its id, outside the namespaces.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written `text`, to either stream.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let (out, err) = (self.out.clone(), self.err.clone());
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let mut ended = false;
        until(&format!("{} writes {text:?}", self.name), || {
            let seen = read(&out).contains(text) || read(&err).contains(text);
            assert!(
                seen || !ended,
                "{} ended without writing {text:?}: {}{}",
                self.name,
                read(&out),
                read(&err)
            );
            ended = !self.is_running();
            seen
        });
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.outer.try_wait().expect("wait for a child").is_none()
    }

    /// Writes one line to its standard input.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.outer.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("write to a process");
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.outer.stdin.take());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|e| panic!("signal {}: {e}", self.name));
    }

    /// Stops it where it is, until [`Self::resume`].
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        until(&format!("{} has stopped", self.name), || is_in_state(self.id(), 'T'));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let outer = i32::try_from(self.outer.id()).expect("process id");
        until(&format!("{} goes on", self.name), || {
            // `nsenter` stops with its child, a little later.
            let stopped = [outer, self.id()].map(|pid| (pid, is_in_state(pid, 'T')));
            for (pid, _) in stopped.iter().filter(|(_, is_stopped)| *is_stopped) {
                kill(Pid::from_raw(*pid), Signal::SIGCONT).expect("let a process go on");
            }
            stopped.iter().all(|(_, is_stopped)| !is_stopped)
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let outer = &mut self.outer;
        until_some(&format!("{} ends", self.name), || outer.try_wait().expect("wait for a child"))
    }

    /// Ends it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.outer.kill();
            let _ = self.outer.wait();
            // `nsenter` may go before its child, which has its locks and ports until it is gone itself.
            for _ in 0..1_000 {
                if !is_running(self.id()) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Whether the process still runs (a zombie doesn't).
fn is_running(pid: i32) -> bool {
    fs::metadata(format!("/proc/{pid}/stat")).is_ok() && !is_in_state(pid, 'Z')
}

/// Whether the process is in this state: proc_pid_stat(5).
fn is_in_state(pid: i32, state: char) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(state)
    })
}
