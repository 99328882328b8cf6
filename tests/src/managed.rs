//! `knockd` under a service manager that holds its sockets: the tool `manager`.

use std::path::PathBuf;

use crate::binaries;
use crate::door::Door;
use crate::process::Process;
use crate::until::until;
use crate::world::Host;

/// How the daemon is managed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan<'a> {
    /// The UDP sockets that are held for it.
    pub udp: &'a [&'a str],
    /// Whether it has a folder below /run in which failed starts are counted, as systemd names it.
    pub counts_failures: bool,
    /// After how long without a word it is killed, in milliseconds.
    pub watchdog: Option<u64>,
}

/// A daemon that is started again whenever it ends.
#[derive(Debug)]
pub struct Managed {
    process: Process,
}

impl Managed {
    /// Starts it on a host, where `door` is installed, with its control socket held for it, too.
    pub fn start(host: Host<'_>, door: &Door<'_>, plan: Plan<'_>) -> Self {
        let text = |path: PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
        let notify = door.state().with_file_name("notify.sock");
        let mut argv = vec![binaries::path("manager")];
        for address in plan.udp {
            argv.extend(["--udp".to_owned(), (*address).to_owned()]);
        }
        argv.extend(["--control".to_owned(), text(door.control())]);
        argv.extend(["--notify".to_owned(), text(notify)]);
        if let Some(limit) = plan.watchdog {
            argv.extend(["--watchdog".to_owned(), limit.to_string()]);
        }
        let command = ["--", &binaries::path("knockd"), "--config", &text(door.config()), "run"];
        argv.extend(command.map(str::to_owned));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let runtime = door.runtime();
        if plan.counts_failures {
            std::fs::create_dir_all(&runtime).expect("make a folder");
        }
        let runtime = text(runtime);
        let mut env = vec![("KNOCKD_LOG", "debug")];
        if plan.counts_failures {
            env.push(("RUNTIME_DIRECTORY", &runtime));
        }
        Self { process: host.spawn(&argv, &env) }
    }

    /// Gives the manager an order: a signal's name for the daemon, "hold" or "start".
    pub fn order(&mut self, order: &str) {
        self.process.write_line(order);
    }

    /// How often the manager has written this line.
    pub fn count(&self, line: &str) -> usize {
        self.process.stdout().lines().filter(|it| it.starts_with(line)).count()
    }

    /// Waits until the manager has written this line so many times.
    #[track_caller]
    pub fn writes(&self, line: &str, times: usize) {
        until(&format!("the manager writes {line:?} {times} times"), || self.count(line) >= times);
    }

    /// What the manager has written.
    pub fn told(&self) -> String {
        self.process.stdout()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}
