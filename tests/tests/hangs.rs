//! Whoever the daemon tells something to, or has do something, may hang: no knock waits for that, and none is lost.
//!
//! What hangs here hangs until the test ends it: a daemon that waited for it would open nothing.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use e2e::fleet::{Fleet, Pair, held, settings};
use e2e::flood::Flood;
use e2e::process::Process;
use e2e::table::elements;
use e2e::until::DEADLINE;
use e2e::{Daemon, Door, Echo, Settings, World, binaries, until};
use nix::sys::signal::Signal;

/// Knocks while something hangs, 100 a second.
const KNOCKS: usize = 200;
/// Addresses that they come from.
const ADDRESSES: u8 = 100;

fn fleet<'w>(door: &Door<'w>, world: &World) -> Fleet {
    Fleet::new(door, world, KNOCKS.div_ceil(ADDRESSES.into()) + 1, ADDRESSES)
}

/// Starts the daemon behind these commands of a shell, in a mount namespace of its own.
fn start(world: &World, door: &Door<'_>, prepare: &str, env: &[(&str, &str)]) -> Process {
    let (knockd, config) = (binaries::path("knockd"), door.config());
    let script = format!("set -e\n{prepare}\nexec '{knockd}' --config '{}' run", config.display());
    let env = [&[("KNOCKD_LOG", "info")], env].concat();
    world.broker().spawn(&["unshare", "--mount", "sh", "-c", &script], &env)
}

/// Waits until the daemon answers, and would accept what the fleet sends.
fn ready(door: &Door<'_>) {
    until("the daemon answers", || door.run(&["status"]).is_success());
    sleep(Duration::from_millis(1_100));
}

/// Knocks 100 times a second, and waits until every knock is granted, as the daemon tells who asks it.
fn all_get_in(door: &Door<'_>, fleet: &mut Fleet) {
    let sent = knock(fleet);
    until("every knock is granted", || {
        let held = held(door);
        sent.iter().all(|pair| held.contains_key(pair))
    });
}

fn knock(fleet: &mut Fleet) -> BTreeSet<Pair> {
    let pause = || sleep(Duration::from_millis(10));
    (0..KNOCKS).map(|_| fleet.knock()).inspect(|_| pause()).collect()
}

/// A socket that nobody reads, full to the brim.
fn full_socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("bind");
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("set");
    while sender.send_to(b"FILLER=1\n", path).is_ok() {}
    socket
}

/// A journald: what it is sent, as soon as it reads.
struct Journald(UnixDatagram);

impl Journald {
    /// The socket, and what has a daemon take it for journald's.
    fn place(world: &World) -> (PathBuf, String) {
        let path = world.dir().join("journal.sock");
        let stream = "export JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/self/fd/2)";
        let link = format!("ln -s '{}' /run/systemd/journal/socket", path.display());
        let mount = "mount -t tmpfs tmpfs /run\nmkdir -p /run/systemd/journal";
        (path, format!("{mount}\n{link}\n{stream}"))
    }

    /// Reads until there is an entry with all of these fields; returns all that came until then.
    #[track_caller]
    fn reads_until(&self, last: &[&str]) -> Vec<String> {
        self.0.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut entries = Vec::new();
        let mut bytes = vec![0; 256 * 1024];
        loop {
            let length = self.0.recv(&mut bytes).unwrap_or_else(|error| {
                panic!("{error} before an entry with {last:?}, after {} entries", entries.len())
            });
            entries.push(fields(&bytes[..length]));
            if last.iter().all(|field| entries.last().expect("one").contains(field)) {
                return entries;
            }
        }
    }
}

/// An entry with a line for each field.
fn fields(mut bytes: &[u8]) -> String {
    let mut text = String::from("\n");
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let name = String::from_utf8_lossy(&bytes[..end]);
        bytes = &bytes[end + 1..];
        if name.contains('=') {
            text += &format!("{name}\n");
            continue;
        }
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
        let length = usize::try_from(u64::from_le_bytes(*length)).expect("a length");
        text += &format!("{name}={}\n", String::from_utf8_lossy(&rest[..length]));
        bytes = &rest[length + 1..];
    }
    text
}

fn count(entries: &[String], field: &str) -> usize {
    entries.iter().filter(|entry| entry.contains(&format!("\n{field}\n"))).count()
}

/// How many knocks were told as granted, in lines of their own or in one for several.
fn granted(entries: &[String]) -> usize {
    let granted = entries.iter().filter(|entry| entry.contains("\nKNOCKD_EVENT=granted\n"));
    let times = |entry: &String| {
        let (_, times) = entry.split_once("\nKNOCKD_TIMES=")?;
        times.lines().next()?.parse::<usize>().ok()
    };
    granted.map(|entry| times(entry).unwrap_or(1)).sum()
}

#[test]
fn a_journald_that_does_not_read_delays_no_start_and_no_knock_and_hears_all_of_it_later() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = fleet(&door, &world);
    let (path, prepare) = Journald::place(&world);
    let journald = Journald(full_socket(&path));
    let mut daemon = start(&world, &door, &prepare, &[]);
    ready(&door);
    all_get_in(&door, &mut fleet);
    let entries = {
        // It tells what it has to, and ends.
        daemon.signal(Signal::SIGTERM);
        journald.reads_until(&["\nKNOCKD_EVENT=ending\n"])
    };
    assert!(daemon.wait().success());
    assert_eq!(granted(&entries), KNOCKS);
    assert_eq!(count(&entries, "KNOCKD_EVENT=started"), 1);
    assert_eq!(count(&entries, "KNOCKD_EVENT=events-untold"), 0);
    let late = entries.iter().find(|entry| entry.contains("KNOCKD_EVENT=started")).expect("one");
    assert!(late.contains("\nKNOCKD_AT=20") && late.contains("\nSYSLOG_IDENTIFIER=knockd\n"));
}

#[test]
fn a_daemon_whose_journald_never_reads_again_ends_all_the_same() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let (path, prepare) = Journald::place(&world);
    let _journald = full_socket(&path);
    let mut daemon = start(&world, &door, &prepare, &[]);
    ready(&door);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}

#[test]
fn without_a_journald_the_daemon_starts_and_opens_and_one_that_comes_later_hears_all_of_it() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = fleet(&door, &world);
    let (path, prepare) = Journald::place(&world);
    let daemon = start(&world, &door, &prepare, &[]);
    ready(&door);
    all_get_in(&door, &mut fleet);
    let journald = Journald(UnixDatagram::bind(&path).expect("bind"));
    daemon.signal(Signal::SIGTERM);
    let entries = journald.reads_until(&["\nKNOCKD_EVENT=ending\n"]);
    assert_eq!(count(&entries, "KNOCKD_EVENT=started"), 1);
    assert_eq!(granted(&entries), KNOCKS);
}

#[test]
fn what_no_more_fits_for_want_of_a_reader_is_counted_and_told_and_no_warning_is_among_it() {
    let world = World::new();
    let door = Door::new(
        &world,
        &Settings {
            tables: "[prefilter]\nmode = \"off\"\n[ban]\nfailures = 1000\n[grant]\nper-client = 4096\n",
            ..settings()
        },
    );
    let mut fleet = fleet(&door, &world);
    let (path, prepare) = Journald::place(&world);
    let journald = Journald(full_socket(&path));
    // At debug a line for each packet of a stranger's.
    let daemon = start(&world, &door, &prepare, &[("KNOCKD_LOG", "debug")]);
    ready(&door);
    let junk = ["--sources", "30000", "--each", "1", "--rate", "10000", "--count", "30000"];
    Flood::start(&world, &junk).sent();
    let untold = || {
        let status = door.run(&["status", "--json"]).success().json();
        status["untold-events"].as_u64().expect("a number")
    };
    until("some don't fit", || untold() > 1_000);
    door.run(&["ban", "198.51.100.7"]).success();
    all_get_in(&door, &mut fleet);

    let entries = journald.reads_until(&["\nKNOCKD_EVENT=events-untold\n"]);
    assert_eq!(count(&entries, "KNOCKD_SOURCE=198.51.100.7"), 1, "a warning has room");
    daemon.signal(Signal::SIGTERM);
    let rest = journald.reads_until(&["\nKNOCKD_EVENT=ending\n"]);
    let told = entries.iter().chain(&rest).filter_map(|entry| {
        let is_this = entry.contains("\nKNOCKD_EVENT=events-untold\n");
        let (_, number) = entry.split_once("\nKNOCKD_EVENTS=").filter(|_| is_this)?;
        number.lines().next()?.parse::<u64>().ok()
    });
    assert!(told.sum::<u64>() > 1_000);
}

#[test]
fn a_log_that_is_a_pipe_which_nobody_reads_delays_no_knock() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = fleet(&door, &world);
    let pipe = world.dir().join("log");
    // Filled, and open for reading so that it isn't broken.
    let prepare = format!(
        "mkfifo '{0}'\nexec 8<>'{0}'\ndd if=/dev/zero of='{0}' oflag=nonblock bs=4k 2>&1 || true\nexec 2>&8",
        pipe.display()
    );
    let mut daemon = start(&world, &door, &prepare, &[]);
    ready(&door);
    all_get_in(&door, &mut fleet);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "nor the end");
}

#[test]
fn a_manager_that_does_not_read_what_it_is_told_delays_no_start_and_no_knock() {
    let world = World::new();
    let door = Door::new(&world, &settings());
    let mut fleet = fleet(&door, &world);
    let path = world.dir().join("notify.sock");
    let manager = full_socket(&path);
    let notify = path.to_str().expect("a path in UTF-8");
    let env = [("NOTIFY_SOCKET", notify), ("WATCHDOG_USEC", "200000")];
    let daemon = start(&world, &door, "", &env);
    ready(&door);
    all_get_in(&door, &mut fleet);

    // It hears that the daemon is ready, now that it reads.
    manager.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut heard = String::new();
    let mut bytes = [0; 4096];
    while !heard.contains("READY=1") {
        let length = manager.recv(&mut bytes).expect("to hear that it is ready");
        heard += &String::from_utf8_lossy(&bytes[..length]);
        heard.push('\n');
    }
    drop(daemon);
}

#[test]
fn a_port_for_figures_that_somebody_else_has_ends_no_start_is_told_and_taken_when_it_is_free() {
    let world = World::new();
    let tables = "[prefilter]\njunk-budget = 1000000\n[grant]\nper-client = 4096\n[metrics]\nlisten = \"127.0.0.1:9162\"\n";
    let door = Door::new(&world, &Settings { tables, ..settings() });
    let mut fleet = fleet(&door, &world);
    let somebody = Echo::start(world.broker(), &["tcp/9162"]);
    let daemon = start(&world, &door, "", &[]);
    ready(&door);
    all_get_in(&door, &mut fleet);
    let failing = || {
        let status = door.run(&["status", "--json"]).success().json();
        status["metrics-failing"].as_str().map(str::to_owned)
    };
    let why = failing().expect("figures fail");
    assert!(why.contains("127.0.0.1:9162") && why.contains("in use"), "{why}");
    assert!(daemon.stderr().contains("event=\"metrics-failed\""));
    door.run(&["status"]).success().says("NOT told, tried again: 127.0.0.1:9162");

    drop(somebody);
    until("figures are told", || failing().is_none());
    let url = "http://127.0.0.1:9162/metrics";
    let page = world.broker().run(&["curl", "--silent", "--fail", url]).success().stdout;
    assert!(page.contains("\nknockd_untold_events_total 0\n"), "{page}");
    assert!(daemon.stderr().contains("event=\"metrics-back\""));
}

#[test]
fn a_full_run_ends_no_start_and_delays_no_knock() {
    let world = World::new();
    let tables = "[prefilter]\njunk-budget = 1000000\n[grant]\nper-client = 4096\n[metrics]\nlisten = \"unix:/run/metrics.sock\"\n";
    let door = Door::new(&world, &Settings { tables, ..settings() });
    door.set("control", "\"/run/knockd/control.sock\"");
    let mut fleet = fleet(&door, &world);
    // An inode for the folder itself, and none for anything in it.
    let full = "mount -t tmpfs -o nr_inodes=1,size=4k tmpfs /run";
    let mut daemon = start(&world, &door, full, &[]);
    daemon.wait_for("listening");
    sleep(Duration::from_millis(1_100));
    let sent = knock(&mut fleet);
    let addresses: BTreeSet<String> = sent.into_iter().map(|(_, address)| address).collect();
    until("a door is open for each address", || {
        let open: BTreeSet<String> =
            elements(&world, "door4").into_iter().map(|(address, _)| address).collect();
        addresses.iter().all(|address| open.iter().any(|it| it.contains(address)))
    });
    daemon.wait_for("event=\"control-failed\"");
    daemon.wait_for("event=\"metrics-failed\"");
}

/// The folder in /proc of a process's thread that has this name.
fn thread(daemon: &Daemon, name: &str) -> PathBuf {
    let tasks = format!("/proc/{}/task", daemon.id());
    let mut threads = fs::read_dir(tasks).expect("list").flatten().map(|entry| entry.path());
    let found = threads
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|found| found.trim() == name));
    found.unwrap_or_else(|| panic!("no thread {name}"))
}

#[test]
fn a_disk_that_takes_a_minute_for_a_write_delays_no_knock() {
    let world = World::new();
    let skew = 5;
    let door = Door::new(&world, &Settings { skew, ..settings() });
    let mut fleet =
        Fleet::new(&door, &world, 2 * KNOCKS.div_ceil(ADDRESSES.into()) + 1, ADDRESSES).on_time();
    let daemon = door.start();
    daemon.wait_out(Duration::from_secs(skew));
    all_get_in(&door, &mut fleet);

    let disk = thread(&daemon, "disk");
    let status = fs::read_to_string(disk.join("status")).expect("read");
    // As the processes of the host number it: the last of proc_pid_status(5), NSpid.
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("numbers");
    let number = numbers.split_whitespace().next_back().expect("a number");
    let slow = "inject=pwrite64:delay_enter=60s:when=1";
    let trace = ["strace", "-p", number, "-e", "trace=pwrite64", "-e", slow];
    let mut strace = world.broker().spawn(&trace, &[]);
    strace.wait_for("attached");
    all_get_in(&door, &mut fleet);
    // Stopped by who traces it: proc_pid_stat(5).
    let stat = fs::read_to_string(disk.join("stat")).expect("read");
    assert!(stat.contains(") t "), "it hangs still: {stat}");
}
