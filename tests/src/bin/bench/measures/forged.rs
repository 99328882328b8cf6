//! Millions of packets from as many forged sources: what grows?

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use knockd::firewall::reader::Reader;
use serde_json::{Value, json};

use crate::Bench;
use crate::blast::{GOES_ON, Junk, Sent, Sources, Stream};
use crate::door::{Daemon, Door, Settings, now};
use crate::fleet::tag;
use crate::measures::clients::tail;
use crate::rig::{SENDER_CORE, Side};

/// Every set of the table that the daemon writes to.
const SETS: [&str; 7] = ["door4", "door6", "tags", "ban4", "ban6", "block4", "block6"];

/// What could grow.
#[derive(Clone, Debug)]
struct Sizes {
    rss_kib: u64,
    /// Elements of each set; none where the set isn't there.
    sets: Vec<(&'static str, usize)>,
    conntrack: u64,
}

impl Sizes {
    fn take(daemon: &Daemon) -> Self {
        let (sets, conntrack) = Side::Broker.within(None, || {
            let mut reader = Reader::open().expect("a netlink socket");
            let sets = SETS
                .iter()
                .filter_map(|set| Some((*set, reader.elements(set, usize::MAX).ok()??.len())))
                .collect();
            let path = "/proc/sys/net/netfilter/nf_conntrack_count";
            let count = std::fs::read_to_string(path).unwrap_or_default();
            (sets, count.trim().parse().unwrap_or(0))
        });
        Self { rss_kib: daemon.process.rss_kib(), sets, conntrack }
    }

    fn elements(&self) -> usize {
        self.sets.iter().map(|(_, elements)| elements).sum()
    }

    fn json(&self) -> Value {
        let sets: serde_json::Map<_, _> =
            self.sets.iter().map(|(set, count)| ((*set).to_owned(), json!(count))).collect();
        json!({"rss_kib": self.rss_kib, "elements": sets, "conntrack": self.conntrack})
    }
}

/// Sources that fail until no further one can be banned: a few more than there is room for.
const FILLS_THE_BANS: u64 = 70_000;

const UNFILTERED: &str = "[prefilter]\nmode = \"off\"\n";

/// Sends so many packets as fast as it goes, this many in a row from each source.
fn send(junk: Junk, each: u64, most: u64) -> Sent {
    let sources = Sources::Strangers { each };
    Side::Device.within(Some(SENDER_CORE), || {
        let lasts = Duration::from_secs(100);
        let knocks = &mut |_| -> (Ipv4Addr, Vec<u8>) { unreachable!("no knocks") };
        let (rate, knock_count) = (None, 0);
        Stream { junk, sources, rate, lasts, most, knocks, knock_count, end: &GOES_ON }.send()
    })
}

pub(crate) fn measure(bench: &mut Bench) {
    let most = u64::from(bench.scaled(10_000_000, 1_000_000));
    let mut raw = Vec::new();
    let mut worst = (0, 0);
    for (name, tables, with_tag, each) in [
        ("the kernel filters", "", false, 1),
        ("every packet reaches the daemon", UNFILTERED, false, 1),
        ("with a valid tag", "", true, 1),
        ("six from each, bans full", UNFILTERED, false, 6),
    ] {
        eprintln!("  {most} packets, {name}");
        let settings = Settings { devices: 10, tables, ..Settings::default() };
        let door = Door::new(&bench.programs.knockd, &settings);
        let mut daemon = door.start();
        sleep(Duration::from_millis(200));
        let junk = if with_tag { Junk::Tag(tag(3, now())) } else { Junk::NoTag };
        if each > 1 {
            send(junk, each, (most / 5).max(each * FILLS_THE_BANS));
            sleep(Duration::from_secs(1));
        }
        let before = Sizes::take(&daemon);
        let sent = send(junk, each, most);
        sleep(Duration::from_millis(500));
        let after = Sizes::take(&daemon);
        let process = &mut daemon.process;
        // What is gone takes no memory: that would pass for flat.
        assert!(
            !process.has_ended(),
            "knockd has ended, {name}; the end of its log:\n{}",
            tail(&process.log())
        );
        bench.report.row(
            &format!("{} packets of forged sources, {name}: memory, elements", sent.packets),
            &format!(
                "{} → {} KiB, {} → {}",
                before.rss_kib,
                after.rss_kib,
                before.elements(),
                after.elements()
            ),
            "",
            "",
            &format!("in {:.1} s", sent.took.as_secs_f64()),
        );
        worst.0 = worst.0.max(after.rss_kib.saturating_sub(before.rss_kib));
        worst.1 = worst.1.max(after.elements().saturating_sub(before.elements()));
        raw.push(json!({
            "name": name, "packets": sent.packets, "took_s": sent.took.as_secs_f64(),
            "before": before.json(), "after": after.json(), "log_bytes": daemon.process.log().len(),
        }));
        daemon.process.end();
    }
    bench.report.bar(
        "forged sources: memory and sets",
        // Who the forged packets of the wire's own addresses are told to come from fails often: two sources.
        "flat, within 10 MB, and two bans",
        &format!("{} KiB and {} elements more at most", worst.0, worst.1),
        worst.0 <= 10_000 && worst.1 <= 2,
    );
    bench.report.raw("forged", Value::Array(raw));
}
