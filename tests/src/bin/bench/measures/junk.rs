//! Junk at 20,000 packets a second and at line rate, and what of valid knocks becomes meanwhile.

mod contest;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Bench;
use crate::blast::{GOES_ON, Junk, Sent, Sources, Stream};
use crate::count::Counter;
use crate::door::{Door, Settings, now, socket_drops};
use crate::fleet::{address, keys, knock, tag};
use crate::measures::clients::tail;
use crate::rig::{SENDER_CORE, Side};
use crate::stats::{Samples, shown};
use crate::watch::{self, Watch};

/// How a stream of junk went.
pub(super) struct Flood {
    pub(super) name: &'static str,
    pub(super) rate: f64,
    pub(super) knocks: usize,
    pub(super) opened: Samples,
    /// Of one core.
    pub(super) share: f64,
    /// Of each packet that reached the daemon's socket and had room there.
    pub(super) per_packet: Duration,
    pub(super) dropped: u64,
    pub(super) rss_kib: u64,
}

/// What the loop that only counts takes.
struct Limit {
    /// Seconds of the processor for each packet.
    each: f64,
    shown: String,
}

pub(crate) fn measure(bench: &mut Bench) {
    let lasts = Duration::from_secs(bench.scaled(5, 2).into());
    let mut raw = Vec::new();
    let limits = [Some(20_000), None].map(|rate| {
        eprintln!("  the loop that only counts");
        let counter = Counter::start();
        let junk = (Junk::NoTag, STRANGERS);
        let sent = stream(junk, rate, lasts, 0, &mut |_| unreachable!("no knocks"));
        let drops = socket_drops();
        let counted = counter.finish();
        let per_second = sent.packets as f64 / sent.took.as_secs_f64();
        raw.push(json!({
            "name": "counting loop", "packets": counted.packets, "sent": sent.packets,
            "dropped_at_the_socket": drops, "cpu_s": counted.cpu.as_secs_f64(), "rate": per_second,
        }));
        let each = counted.cpu.as_secs_f64() / counted.packets as f64;
        let share = counted.cpu.as_secs_f64() / sent.took.as_secs_f64() * 100.0;
        Limit {
            each,
            shown: format!("{share:.1} %, {:.2} µs each, at {per_second:.0}/s", each * 1e6),
        }
    });
    for (name, with_tag, rate) in [
        ("20,000/s, no tag", false, Some(20_000)),
        ("20,000/s, valid tag", true, Some(20_000)),
        ("line rate, no tag", false, None),
        ("line rate, valid tag", true, None),
    ] {
        eprintln!("  {name}");
        let flood = flood(bench, name, (with_tag, STRANGERS), rate, lasts);
        let [paced, unpaced] = &limits;
        let limit = if rate.is_some() { paced } else { unpaced };
        let to_limit = flood.per_packet.as_secs_f64() / limit.each;
        let ratio =
            if with_tag { format!("{to_limit:.1} × the limit's CPU") } else { String::new() };
        bench.report.row(
            &format!("junk at {name}: opened, median / p99, of a core, memory"),
            &format!(
                "{} of {}, {}, {:.1} %, {} KiB",
                flood.opened.len(),
                flood.knocks,
                flood.opened.shown(),
                flood.share * 100.0,
                flood.rss_kib
            ),
            "",
            &limit.shown,
            &ratio,
        );
        let all = flood.opened.len() == flood.knocks;
        let opened = format!("{} of {} opened", flood.opened.len(), flood.knocks);
        match (rate, with_tag) {
            (None, false) => bench.report.bar(
                "junk at line rate, no tag",
                "all opened, p99 under 10 ms, under 5 % of a core",
                &format!(
                    "{opened}, p99 {}, {:.1} % of a core, at {:.0}/s",
                    shown(flood.opened.p99()),
                    flood.share * 100.0,
                    flood.rate
                ),
                all && flood.opened.p99() < Duration::from_millis(10) && flood.share < 0.05,
            ),
            (None, true) => bench.report.bar(
                "junk at line rate, valid tag",
                "all opened, CPU of a packet at most 4 × the counting loop's",
                &format!(
                    "{opened}, {to_limit:.1} × ({:.2} µs to {:.2} µs), {} of {:.0} a second dropped at the socket",
                    flood.per_packet.as_secs_f64() * 1e6,
                    limit.each * 1e6,
                    flood.dropped,
                    flood.rate
                ),
                all && to_limit <= 4.0,
            ),
            _ => {}
        }
        raw.push(flood.json());
    }
    raw.push(contest::measure(bench));
    bench.report.raw("junk", Value::Array(raw));
}

/// Each packet from another source.
const STRANGERS: Sources = Sources::Strangers { each: 1 };

fn stream(
    (junk, sources): (Junk, Sources),
    rate: Option<u32>,
    lasts: Duration,
    knock_count: usize,
    knocks: &mut (dyn FnMut(usize) -> (Ipv4Addr, Vec<u8>) + Send),
) -> Sent {
    Side::Device.within(Some(SENDER_CORE), || {
        let most = 20_000_000;
        Stream { junk, sources, rate, lasts, most, knocks, knock_count, end: &GOES_ON }.send()
    })
}

pub(super) fn flood(
    bench: &Bench,
    name: &'static str,
    (with_tag, sources): (bool, Sources),
    rate: Option<u32>,
    lasts: Duration,
) -> Flood {
    let door = Door::new(&bench.programs.knockd, &Settings { devices: 10, ..Settings::default() });
    let mut daemon = door.start();
    let junk = if with_tag { Junk::Tag(tag(3, now())) } else { Junk::NoTag };
    let count = bench.scaled(100, 40) as usize;
    let watch = Watch::start(None);
    let own = keys(3);
    let before = daemon.process.cpu();
    let mut knocks = |number: usize| {
        let from = address(u32::try_from(number).expect("few knocks"));
        (from, knock(&own, from, daemon.stamp()))
    };
    let sent = stream((junk, sources), rate, lasts, count, &mut knocks);
    let cpu = daemon.process.cpu() - before;
    // What is still in the socket's buffer.
    std::thread::sleep(Duration::from_millis(500));
    let after = daemon.process.cpu() - before;
    let dropped = socket_drops();
    let received = sent.packets.saturating_sub(dropped).max(1);
    let flood = Flood {
        name,
        rate: sent.packets as f64 / sent.took.as_secs_f64(),
        knocks: sent.knocks.len(),
        opened: Samples::new(watch::times(&sent.knocks, &watch.finish())),
        share: cpu.as_secs_f64() / sent.took.as_secs_f64(),
        per_packet: Duration::from_secs_f64(after.as_secs_f64() / received as f64),
        dropped,
        rss_kib: daemon.process.rss_kib(),
    };
    if flood.opened.len() < flood.knocks || daemon.process.has_ended() {
        eprintln!("    not all opened; the end of knockd's log:\n{}", tail(&daemon.process.log()));
    }
    assert!(!daemon.process.has_ended(), "knockd has ended under {name}");
    daemon.process.end();
    flood
}

impl Flood {
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name, "rate": self.rate, "knocks": self.knocks, "opened": self.opened.json(),
            "share_of_a_core": self.share, "cpu_per_received_packet_us": self.per_packet.as_secs_f64() * 1e6,
            "dropped_at_the_socket": self.dropped, "rss_kib": self.rss_kib,
        })
    }
}
