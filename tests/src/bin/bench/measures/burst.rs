//! A whole fleet at once: different valid knocks, made beforehand, at line rate.

use std::cmp::Reverse;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Bench;
use crate::blast::Blast;
use crate::door::{Door, Settings, open_doors, socket_drops};
use crate::fleet::{address, keys, knock, packet};
use crate::peers::fwknop;
use crate::rig::{SENDER_CORE, Side};
use crate::stats::shown;

/// How long after the last datagram a door may still open.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must open for it to be over.
const QUIET: Duration = Duration::from_secs(2);

/// How a burst went.
struct Burst {
    knocks: u32,
    opened: usize,
    dropped: u64,
    sending: Duration,
    last: Duration,
    cpu: Duration,
    rss_kib: u64,
}

pub(crate) fn measure(bench: &mut Bench) {
    let (peers, mut raw) = peers(bench);
    let best = peers.iter().max_by_key(|(_, burst)| (burst.opened, Reverse(burst.last)));
    let best = best.map_or_else(String::new, |(name, burst)| format!("{} {name}", burst.shown()));
    for knocks in [1_000, 10_000, 100_000] {
        eprintln!("  {knocks} knocks");
        let burst = burst(&bench.programs.knockd, knocks);
        let each = burst.cpu / knocks;
        bench.report.row(
            &format!("burst of {knocks} valid knocks: opened, until the last, CPU of each"),
            &burst.shown(),
            if knocks == 1_000 { &best } else { "" },
            &format!("sent in {}", shown(burst.sending)),
            &format!("{:.1} × the sending", burst.last.as_secs_f64() / burst.sending.as_secs_f64()),
        );
        let limit = match knocks {
            10_000 => Some(Duration::from_millis(500)),
            100_000 => Some(Duration::from_secs(3)),
            _ => None,
        };
        if let Some(limit) = limit {
            bench.report.bar(
                &format!("burst of {knocks} valid knocks"),
                &format!("all opened, within {}, at most 20 µs of CPU each", shown(limit)),
                &format!(
                    "{} opened, {}, {} each; {} dropped at the socket",
                    burst.opened,
                    shown(burst.last),
                    shown(each),
                    burst.dropped
                ),
                burst.opened == knocks as usize
                    && burst.last <= limit
                    && each <= Duration::from_micros(20),
            );
        }
        raw.push(burst.json());
    }
    bench.report.raw("burst", Value::Array(raw));
}

/// The same with fwknop, in its two modes: 1,000 knocks. letmein has a rule for each, 100 by default, and
/// takes no knocks that were made beforehand.
fn peers(bench: &mut Bench) -> (Vec<(&'static str, Burst)>, Vec<Value>) {
    let knocks = bench.scaled(1_000, 200);
    eprintln!("  making {knocks} packets of fwknop");
    let payloads = fwknop::knocks(knocks);
    let mut bursts = Vec::new();
    for mode in [fwknop::Mode::UdpServer, fwknop::Mode::Pcap] {
        let peer = fwknop::start(mode);
        eprintln!("  {knocks} knocks, {}", peer.name);
        let packets =
            payloads.iter().zip(0..).map(|(payload, device)| packet(address(device), payload));
        let packets: Vec<Vec<u8>> = packets.collect();
        let before = peer.cpu();
        let start = Instant::now();
        let sending = Side::Device.within(Some(SENDER_CORE), || {
            let mut blast = Blast::new();
            blast.send(&packets);
            start.elapsed()
        });
        let (mut opened, mut last) = (0, sending);
        while opened < knocks as usize && start.elapsed() < last + QUIET * 2 {
            sleep(Duration::from_millis(200));
            let now = fwknop::open_doors();
            if now > opened {
                (opened, last) = (now, start.elapsed());
            }
        }
        let (cpu, rss_kib) = (peer.cpu() - before, peer.rss_kib());
        let burst = Burst { knocks, opened, dropped: 0, sending, last, cpu, rss_kib };
        bursts.push((peer.name, burst));
    }
    let raw = bursts.iter().map(|(name, burst)| json!({"name": name, "burst": burst.json()}));
    let raw = raw.collect();
    (bursts, raw)
}

fn burst(knockd: &Path, knocks: u32) -> Burst {
    let tables = "[grant]\nopen-for = \"10m\"\n";
    let door = Door::new(knockd, &Settings { devices: knocks, tables, ..Settings::default() });
    let daemon = door.start();
    let stamp = daemon.stamp() + 1_000;
    let packets: Vec<Vec<u8>> =
        (0..knocks).map(|device| knock(&keys(device), address(device), stamp)).collect();
    sleep(Duration::from_millis(1_100));

    let (before, log) = (daemon.process.cpu(), daemon.process.log_path().to_owned());
    let (sending, last) = Side::Device.within(Some(SENDER_CORE), || {
        let mut blast = Blast::new();
        let mut grants = Grants::follow(&log);
        let start = Instant::now();
        blast.send(&packets);
        let sending = start.elapsed();
        let mut last = start.elapsed();
        while grants.count < knocks as usize
            && start.elapsed() < PATIENCE
            && start.elapsed() < last + QUIET
        {
            sleep(Duration::from_micros(200));
            if grants.read() {
                last = start.elapsed();
            }
        }
        (sending, last)
    });
    let opened = open_doors().len();
    let burst = Burst {
        knocks,
        opened,
        dropped: socket_drops(),
        sending,
        last,
        cpu: daemon.process.cpu() - before,
        rss_kib: daemon.process.rss_kib(),
    };
    daemon.process.end();
    burst
}

impl Burst {
    fn shown(&self) -> String {
        let each = self.cpu / self.knocks;
        format!("{} of {}, {}, {}", self.opened, self.knocks, shown(self.last), shown(each))
    }

    fn json(&self) -> Value {
        json!({
            "knocks": self.knocks, "opened": self.opened, "dropped_at_the_socket": self.dropped,
            "sending_s": self.sending.as_secs_f64(), "until_the_last_s": self.last.as_secs_f64(),
            "cpu_s": self.cpu.as_secs_f64(), "rss_kib": self.rss_kib,
        })
    }
}

/// Counts the grants that the daemon tells of: a line each, written once the doors are open.
struct Grants {
    log: File,
    count: usize,
    /// The beginning of a line of which the end isn't there yet.
    rest: Vec<u8>,
}

impl Grants {
    fn follow(log: &Path) -> Self {
        let mut log = File::open(log).expect("open the daemon's log");
        let mut old = Vec::new();
        log.read_to_end(&mut old).expect("read the daemon's log");
        Self { log, count: 0, rest: Vec::new() }
    }

    /// Reads on; whether there was a grant.
    fn read(&mut self) -> bool {
        self.log.read_to_end(&mut self.rest).expect("read the daemon's log");
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        let text = String::from_utf8_lossy(&lines);
        let found = text.matches("decision=\"granted\"").count();
        self.count += found;
        found > 0
    }
}
