//! Whoever the daemon tells something to, or has do something, hangs: no knock waits for that.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::knocks::send_junk;
use crate::lan::{Found, broker_is};
use crate::machine::Machine;
use crate::report::{Report, saw};
use crate::scenes::change::is_whole;
use crate::scenes::install::{close, knock};
use crate::scenes::{Stage, journal};
use crate::wait::{wait, wait_some};

/// How long a stream of knocks lasts.
const STREAM: Duration = Duration::from_secs(3);
/// More events than there is room for: at debug there is one for each datagram of a stranger's.
const JUNK: usize = 40_000;
/// A drop-in of the daemon's, and what it says for either check.
const DROP_IN: &str = "/etc/systemd/system/knockd.service.d/hangs.conf";
const AT_DEBUG: &str = "[Service]\nEnvironment=KNOCKD_LOG=debug\n";
/// Its sandbox would run no other nft than the host's own.
const OTHER_NFT: &str = "[Service]
Environment=PATH=/opt/hangs:/usr/sbin:/usr/bin
ExecPaths=/opt/hangs /usr/bin
";
const HANGING_NFT: &str = "#!/bin/sh\nexec sleep 600\n";

pub(crate) fn play(stage: &mut Stage<'_>) {
    journald(stage);
    nft(stage);
}

fn journald(stage: &mut Stage<'_>) {
    let (report, broker, fleet) = (&mut *stage.report, &stage.broker, &stage.fleet);
    let name =
        "journald stopped under a stream of knocks: all open, and all are told when it goes on";
    report.check(name, || {
        let cursor = journal::cursor(broker);
        let stopped = Stopped::stop(broker);
        let stream = fleet.stream();
        sleep(STREAM);
        let knocks = stream.stop();
        knocks.all_granted(broker);
        assert!(stopped.is_so(), "journald went on by itself");
        drop(stopped);
        wait("every grant is told", || granted(broker, &cursor) >= knocks.count());
        saw(&format!("{} knocks, all granted, and told afterwards", knocks.count()));
        assert_eq!(granted(broker, &cursor), knocks.count());
        assert_eq!(untold(broker), 0);
    });
    let name = "what there is no room for meanwhile is counted, and how much that was is told when it goes on";
    changed(report, broker, AT_DEBUG, name, || {
        broker.run(&["sed", "-i", "s/^\\[prefilter\\]$/&\\nmode = \"off\"/", CONFIG]).success();
        broker.run(&["systemctl", "restart", "knockd"]).success();
        let cursor = journal::cursor(broker);
        let stopped = Stopped::stop(broker);
        send_junk(JUNK);
        let untold = wait_some("some don't fit", || Some(untold(broker)).filter(|many| *many > 0));
        knock(&["--wait"]).success();
        broker_is(Found::Open);
        drop(stopped);
        let told = wait_some("it is told how many", || {
            let entries = journal::entries(broker, &cursor, &["KNOCKD_EVENT=events-untold"]);
            let many = entries
                .iter()
                .filter_map(|entry| entry["KNOCKD_EVENTS"].as_str()?.parse::<u64>().ok());
            Some(many.sum::<u64>()).filter(|many| *many >= untold)
        });
        saw(&format!("{told} events didn't fit, which is told"));
        broker.run(&["sed", "-i", "/^\\[prefilter\\]$/,+1{/^mode/d}", CONFIG]).success();
        close();
    });
}

fn nft(stage: &mut Stage<'_>) {
    let (report, broker, fleet) = (&mut *stage.report, &stage.broker, &stage.fleet);
    let name =
        "an nft that hangs under a stream of knocks: all open, and a restart is over in time";
    changed(report, broker, OTHER_NFT, name, || {
        broker.write_as("/opt/hangs/nft", HANGING_NFT, 0o755);
        let before = broker.daemon().expect("the daemon runs");
        let cursor = journal::cursor(broker);
        let (stream, start) = (fleet.stream(), Instant::now());
        broker.run(&["systemctl", "restart", "knockd"]).success();
        let took = start.elapsed();
        let after = broker.until_daemon_is_another(before);
        sleep(STREAM);
        let knocks = stream.stop();
        knocks.all_granted(broker);
        let gave_up = wait_some("it is told that nft was given up", || {
            journal::entries(broker, &cursor, &["KNOCKD_EVENT=nft-failed"]).into_iter().next()
        });
        saw(gave_up["MESSAGE"].as_str().unwrap_or_default());
        saw(&format!(
            "{} knocks, all granted; process {before} became {after}, `systemctl restart` took {:.0} s",
            knocks.count(),
            took.as_secs_f64()
        ));
        // Somebody takes the table out: it is put in again all the same.
        broker.run(&["/usr/sbin/nft", "delete", "table", "inet", "knockd"]).success();
        wait("the table is whole", || broker.run(&["knockd", "firewall", "status"]).is_success());
        broker_is(Found::Silence);
    });
    broker.run(&["rm", "-r", "/opt/hangs"]).success();
    is_whole(broker);
}

const CONFIG: &str = "/etc/knockd/knockd.toml";

/// A check on a daemon with a drop-in of this content; it is restarted without it when that is over.
fn changed(report: &mut Report, broker: &Machine, drop_in: &str, name: &str, look: impl FnOnce()) {
    broker.write(DROP_IN, drop_in);
    broker.run(&["systemctl", "daemon-reload"]).success();
    report.check(name, look);
    broker.run(&["rm", DROP_IN]).success();
    broker.run(&["systemctl", "daemon-reload"]).success();
    broker.run(&["systemctl", "restart", "knockd"]).success();
}

/// A journald that doesn't read, until this is dropped.
struct Stopped<'m> {
    machine: &'m Machine,
    pid: String,
}

impl<'m> Stopped<'m> {
    fn stop(machine: &'m Machine) -> Self {
        let pid = machine.show("systemd-journald.service", "MainPID");
        machine.run(&["kill", "-STOP", &pid]).success();
        Self { machine, pid }
    }

    /// Whether it is stopped still.
    fn is_so(&self) -> bool {
        self.machine.sh(&format!("ps -o state= -p {}", self.pid)).trim() == "T"
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.machine.run(&["kill", "-CONT", &self.pid]);
    }
}

/// How many grants were told since a cursor: several may share a line.
fn granted(broker: &Machine, cursor: &str) -> usize {
    let entries = journal::entries(broker, cursor, &["KNOCKD_EVENT=granted"]);
    let times = |entry: &serde_json::Value| entry["KNOCKD_TIMES"].as_str()?.parse().ok();
    entries.iter().map(|entry| times(entry).unwrap_or(1)).sum()
}

/// How many events had no room, since the daemon started.
fn untold(broker: &Machine) -> u64 {
    let status = broker.run(&["knockd", "status", "--json"]).success().json();
    status["untold-events"].as_u64().expect("a number")
}
