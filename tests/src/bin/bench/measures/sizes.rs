//! How much the client takes: size, time, memory, system calls; and the daemon while nobody knocks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::Bench;
use crate::door::{Door, Settings};
use crate::profile;
use crate::rig::Side;
use crate::stats::{Samples, shown};

/// What a client takes for one knock, without waiting for the port.
struct Taken {
    bytes: u64,
    wall: Samples,
    rss_kib: i64,
    system_calls: u64,
}

pub(crate) fn measure(bench: &mut Bench) {
    let settings = Settings { skew: Duration::from_secs(1), ..Settings::default() };
    let door = Door::new(&bench.programs.knockd, &settings);
    let profile = profile::write(door.dir(), 0);
    let daemon = door.start();
    daemon.wait_out();
    let count = bench.scaled(100, 30);
    let empty = Samples::new(
        Side::Device.within(None, || spawns(count, || Command::new(&bench.programs.bare))),
    );
    let mut raw = Vec::new();
    for (name, program) in
        [("dynamic", bench.programs.knock.clone()), ("static", bench.programs.knock_static.clone())]
    {
        eprintln!("  the client, {name}");
        let taken = client(&program, &profile, count);
        bench.report.row(
            &format!("client ({name}): size, time median / p99, memory, system calls"),
            &format!(
                "{} bytes, {}, {} KiB, {}",
                taken.bytes,
                taken.wall.shown(),
                taken.rss_kib,
                taken.system_calls
            ),
            "",
            &format!("{} for an empty one", empty.shown()),
            &format!(
                "{:.1} × the limit",
                taken.wall.median().as_secs_f64() / empty.median().as_secs_f64()
            ),
        );
        if name == "dynamic" {
            bench.report.bar(
                "client: size (dynamic)",
                "under 700 KB",
                &format!("{} bytes", taken.bytes),
                taken.bytes < 700_000,
            );
        } else {
            bench.report.bar(
                "client: system calls (static, a literal address)",
                "at most 60",
                &taken.system_calls.to_string(),
                taken.system_calls <= 60,
            );
        }
        bench.report.bar(
            &format!("client: time ({name}), median"),
            "under 2 ms",
            &shown(taken.wall.median()),
            taken.wall.median() < Duration::from_millis(2),
        );
        raw.push(taken.json(name));
    }
    raw.push(json!({"name": "an empty static program", "wall": empty.json()}));
    bench.report.raw("client", Value::Array(raw));

    let minutes = if bench.quick { 0.25 } else { 2.0 };
    eprintln!("  the daemon at rest, {minutes} minutes");
    // Whatever its start and the knocks before left to do.
    sleep(Duration::from_secs(if bench.quick { 2 } else { 10 }));
    let before = daemon.process.wakeups();
    sleep(Duration::from_secs_f64(minutes * 60.0));
    let wakeups = daemon.process.wakeups() - before;
    let (a_minute, rss) = (wakeups as f64 / minutes, daemon.process.rss_kib());
    bench.report.row(
        "daemon at rest: memory, wakeups a minute",
        &format!("{rss} KiB, {a_minute:.1}"),
        "",
        "",
        "",
    );
    bench.report.bar(
        "daemon at rest: memory",
        "under 15 MB",
        &format!("{rss} KiB"),
        rss * 1024 < 15_000_000,
    );
    if !bench.quick {
        bench.report.bar(
            "daemon at rest: wakeups",
            "at most one a minute",
            &format!("{wakeups} in {minutes} minutes"),
            wakeups as f64 <= minutes,
        );
    }
    bench.report.raw("at_rest", json!({"wakeups": wakeups, "minutes": minutes, "rss_kib": rss}));
    daemon.process.end();
}

fn client(program: &Path, profile: &Path, count: u32) -> Taken {
    let knock = || profile::command(program, profile, &["--quiet"]);
    let wall = Side::Device.within(None, || spawns(count, knock));
    Taken {
        bytes: fs::metadata(program).expect("knock").len(),
        wall: Samples::new(wall),
        rss_kib: max_rss(program, profile),
        system_calls: system_calls(&knock()),
    }
}

/// How long each of so many runs of a program takes.
fn spawns(count: u32, program: impl Fn() -> Command) -> Vec<Duration> {
    let run = |_| {
        let mut command = program();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let start = Instant::now();
        assert!(command.status().expect("run a program").success(), "{command:?} fails");
        start.elapsed()
    };
    (0..count).map(run).collect()
}

/// The client's largest resident memory, as its parent is told. A shell that does nothing else is the
/// parent, since what this process has waited for before was larger.
fn max_rss(program: &Path, profile: &Path) -> i64 {
    let own = std::env::current_exe().expect("own path");
    let mut command = Command::new(own);
    command.env(RSS_OF, program).arg("--").arg("--config").arg(profile).arg("--quiet");
    let output = Side::Device.within(None, || command.output()).expect("run this program");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of KiB")
}

/// Names a program that this one, instead of its work, runs once, to tell how much memory it took.
const RSS_OF: &str = "KNOCK_BENCH_RSS_OF";

/// Runs a program once if that is what this process is for, and tells its memory.
pub(crate) fn tell_memory_of_another() -> bool {
    let Some(program) = std::env::var_os(RSS_OF) else { return false };
    let status = Command::new(program).args(std::env::args_os().skip(2)).status();
    assert!(status.is_ok_and(|status| status.success()), "it fails");
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).expect("resource usage").max_rss());
    true
}

/// How many system calls it makes, from execve to exit, as strace counts them.
fn system_calls(command: &Command) -> u64 {
    let mut strace = Command::new("strace");
    strace.arg("-f").arg(command.get_program()).args(command.get_args());
    let output = Side::Device.within(None, || strace.output()).expect("run strace");
    assert!(output.status.success(), "strace fails");
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    let calls = lines.lines().filter(|line| line.contains('(') && !line.starts_with(['+', '-']));
    u64::try_from(calls.count()).expect("a count")
}

impl Taken {
    fn json(&self, name: &str) -> Value {
        json!({
            "name": name, "bytes": self.bytes, "wall": self.wall.json(), "max_rss_kib": self.rss_kib,
            "system_calls": self.system_calls,
        })
    }
}
