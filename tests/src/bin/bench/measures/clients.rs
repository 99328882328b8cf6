//! One client or a million: time to load, memory, time to open, and the cost of one more.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Bench;
use crate::blast::Blast;
use crate::door::{Daemon, Door, Settings};
use crate::fleet::{address, keys, knock};
use crate::rig::{SENDER_CORE, Side};
use crate::stats::{Samples, shown};
use crate::watch::{self, Watch};

/// What so many clients cost.
struct Crowd {
    clients: u32,
    loading: Duration,
    rss_kib: u64,
    peak_kib: u64,
    opening: Samples,
    /// `knockd client add`.
    adding: Duration,
    /// From SIGHUP to the daemon's saying that a changed file is in force.
    reloading: Duration,
    /// Knocks that came meanwhile.
    opening_meanwhile: Samples,
    /// The most memory that it had then.
    peak_after_kib: u64,
}

pub(crate) fn measure(bench: &mut Bench) {
    let numbers: &[u32] =
        if bench.quick { &[1, 1_000, 100_000] } else { &[1, 1_000, 100_000, 1_000_000] };
    let mut crowds: Vec<Crowd> = Vec::new();
    for clients in numbers {
        eprintln!("  {clients}");
        let crowd = crowd(bench, *clients);
        let ratio = crowds.first().map_or_else(String::new, |one| {
            let ratio = crowd.opening.median().as_secs_f64() / one.opening.median().as_secs_f64();
            format!("{ratio:.2} × one client's")
        });
        bench.report.row(
            &format!("{clients} clients: loaded in; memory, peak; opened in, median / p99"),
            &format!(
                "{}; {} KiB, {} KiB; {}",
                shown(crowd.loading),
                crowd.rss_kib,
                crowd.peak_kib,
                crowd.opening.shown()
            ),
            "",
            "",
            &ratio,
        );
        bench.report.row(
            &format!(
                "{clients} clients: one more by `client add`; reloaded in; knocks meanwhile; peak"
            ),
            &format!(
                "{}; {}; {}; {} KiB",
                shown(crowd.adding),
                shown(crowd.reloading),
                crowd.opening_meanwhile.shown(),
                crowd.peak_after_kib
            ),
            "",
            "",
            "",
        );
        crowds.push(crowd);
    }
    if let (Some(one), Some(most)) = (crowds.first(), crowds.last())
        && most.clients >= 1_000_000
    {
        bars(bench, one, most);
    }
    bench.report.raw("clients", Value::Array(crowds.iter().map(Crowd::json).collect()));
}

fn bars(bench: &mut Bench, one: &Crowd, most: &Crowd) {
    let ratio = most.opening.median().as_secs_f64() / one.opening.median().as_secs_f64();
    bench.report.bar(
        "1,000,000 clients: time to open, median",
        "within 10 % of one client's",
        &format!(
            "{:+.0} % ({} to {})",
            (ratio - 1.0) * 100.0,
            shown(most.opening.median()),
            shown(one.opening.median())
        ),
        ratio <= 1.1,
    );
    let each = |kib: u64| (kib - one.rss_kib) * 1024 / u64::from(most.clients);
    bench.report.bar(
        "1,000,000 clients: memory of each, loaded",
        "under 400 bytes",
        &format!(
            "{} bytes; {} bytes at the peak of loading",
            each(most.rss_kib),
            each(most.peak_kib)
        ),
        each(most.rss_kib) < 400,
    );
    bench.report.bar(
        "1,000,000 clients: loaded",
        "within 15 s",
        &shown(most.loading),
        most.loading <= Duration::from_secs(15),
    );
}

fn crowd(bench: &Bench, clients: u32) -> Crowd {
    let door =
        Door::new(&bench.programs.knockd, &Settings { devices: clients, ..Settings::default() });
    let daemon = door.start();
    let count = bench.scaled(300, 100);
    let opening = knocks(&daemon, clients, 0, |sent| sent < count);
    let (rss_kib, peak_kib) = (daemon.process.rss_kib(), daemon.process.peak_kib());
    let loading = daemon.loading;

    let start = Instant::now();
    door.run(&["client", "add", "one-more", "--service", "mqtts"]).success();
    let adding = start.elapsed();
    // That has taken effect already: the same file is written once more, and read again.
    let entry = door.dir().join("clients.d/one-more.toml");
    fs::write(&entry, fs::read(&entry).expect("read an entry")).expect("write an entry");
    let start = Instant::now();
    daemon.process.hang_up();
    let mut reloading = None;
    let opening_meanwhile = knocks(&daemon, clients, count, |_| {
        assert!(start.elapsed() < Duration::from_mins(2), "{}", tail(&daemon.process.log()));
        let reloads = daemon.process.log().matches("grants ended").count();
        reloading = (reloads > 1).then(|| start.elapsed());
        reloading.is_none()
    });
    let peak_after_kib = daemon.process.peak_kib();
    daemon.process.end();
    Crowd {
        clients,
        loading,
        rss_kib,
        peak_kib,
        opening,
        adding,
        reloading: reloading.unwrap_or_default(),
        opening_meanwhile,
        peak_after_kib,
    }
}

/// Knocks of clients from all over the directory, each from an address of its own, one every five
/// milliseconds for as long as it goes on: from each sending to its door's opening.
fn knocks(
    daemon: &Daemon,
    clients: u32,
    first: u32,
    mut goes_on: impl FnMut(u32) -> bool + Send,
) -> Samples {
    let watch = Watch::start(Some(SENDER_CORE));
    let sent = Side::Device.within(Some(SENDER_CORE), || {
        let mut blast = Blast::new();
        let mut sent = Vec::new();
        for number in 0.. {
            if !goes_on(number) {
                break;
            }
            let device = u32::try_from(u64::from(number) * 7_919 % u64::from(clients));
            let from = address(first + number);
            let packet = knock(&keys(device.expect("a device")), from, daemon.stamp());
            sent.push((from, Instant::now()));
            blast.send(&[packet]);
            sleep(Duration::from_millis(5));
        }
        sent
    });
    sleep(Duration::from_millis(200));
    let opening = watch::times(&sent, &watch.finish());
    assert_eq!(opening.len(), sent.len(), "not all knocks opened: {}", tail(&daemon.process.log()));
    Samples::new(opening)
}

/// The end of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

impl Crowd {
    fn json(&self) -> Value {
        json!({
            "clients": self.clients, "loading_s": self.loading.as_secs_f64(), "rss_kib": self.rss_kib,
            "peak_kib": self.peak_kib, "opening": self.opening.json(),
            "client_add_s": self.adding.as_secs_f64(), "reload_s": self.reloading.as_secs_f64(),
            "opening_meanwhile": self.opening_meanwhile.json(), "peak_after_reload_kib": self.peak_after_kib,
        })
    }
}
