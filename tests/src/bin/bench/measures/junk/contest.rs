//! Client programs under 20,000 junk packets a second, knock's and the peers': from the start of the process
//! to the first accepted connection, or not at all within three seconds.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Bench;
use crate::blast::{Junk, Sources, Stream};
use crate::door::{Door, Settings};
use crate::measures::connect::{Attempts, Client, attempts};
use crate::rig::{SENDER_CORE, Side};
use crate::{peers, profile};

const RATE: u32 = 20_000;

/// How one of them did.
struct Result {
    name: &'static str,
    attempts: Attempts,
    /// Of a core, of all its daemons.
    share: f64,
    rss_kib: u64,
}

pub(super) fn measure(bench: &mut Bench) -> Value {
    let count = bench.scaled(12, 6);
    let mut results = Vec::new();
    {
        eprintln!("  the client under 20,000/s");
        let settings = Settings { skew: Duration::from_secs(1), ..Settings::default() };
        let door = Door::new(&bench.programs.knockd, &settings);
        let profile = profile::write(door.dir(), 0);
        let daemon = door.start();
        daemon.wait_out();
        let program = &bench.programs.knock;
        let command = |_| profile::command(program, &profile, &["--quiet", "--wait=3s"]);
        let client = Client { command: &command, waits: true };
        let (attempts, share) = under_junk(&client, count, || daemon.process.cpu());
        let rss_kib = daemon.process.rss_kib();
        results.push(Result { name: "knockd", attempts, share, rss_kib });
        daemon.process.end();
    }
    for start in peers::ALL {
        let peer = start(bench);
        eprintln!("  {} under 20,000/s", peer.name);
        let client = Client { command: &*peer.client, waits: false };
        let (attempts, share) = under_junk(&client, count, || peer.cpu());
        results.push(Result { name: peer.name, attempts, share, rss_kib: peer.rss_kib() });
    }
    let best = results.iter().skip(1).max_by_key(|result| result.attempts.opened.len());
    let best = best.map_or_else(String::new, |best| format!("{} {}", best.shown(), best.name));
    if let Some(own) = results.first() {
        let what = "client under 20,000 junk packets/s: opened, median / p99, of a core, memory";
        bench.report.row(what, &own.shown(), &best, "", "");
    }
    Value::Array(results.iter().map(Result::json).collect())
}

/// Attempts while junk comes in, and the daemon's share of a core meanwhile.
fn under_junk(client: &Client<'_>, count: u32, cpu: impl Fn() -> Duration) -> (Attempts, f64) {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let junk = scope.spawn(|| {
            Side::Device.join(Some(SENDER_CORE));
            let (lasts, most) = (Duration::from_secs(90), 2_000_000);
            let knocks = &mut |_| -> (Ipv4Addr, Vec<u8>) { unreachable!("no knocks") };
            let rate = Some(RATE);
            let (junk, sources) = (Junk::NoTag, Sources::Strangers { each: 1 });
            Stream { junk, sources, rate, lasts, most, knocks, knock_count: 0, end: &end }.send()
        });
        thread::sleep(Duration::from_millis(500));
        let before = cpu();
        let attempts = attempts(client, 20_000, count);
        let used = cpu() - before;
        // The junk's own clock is the one that the share is of.
        end.store(true, Ordering::Relaxed);
        let took = junk.join().expect("the junk").took - Duration::from_millis(500);
        (attempts, used.as_secs_f64() / took.as_secs_f64())
    })
}

impl Result {
    fn shown(&self) -> String {
        format!(
            "{} of {}, {}, {:.0} %, {} KiB",
            self.attempts.opened.len(),
            self.attempts.count,
            self.attempts.opened.shown(),
            self.share * 100.0,
            self.rss_kib
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "junk_rate": RATE, "attempts": self.attempts.count,
            "opened": self.attempts.opened.json(), "share_of_a_core": self.share, "rss_kib": self.rss_kib,
        })
    }
}
