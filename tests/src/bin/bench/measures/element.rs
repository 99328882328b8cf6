//! From a datagram to its element in the kernel, while nothing else happens.
//!
//! Twice: with the daemon on the core of the sender, so that nothing but its own work is between; and on the
//! other core, which has gone idle and must be woken first. A daemon that believes everyone shows how much of
//! it is the rig's: the wire, the wakeups, and that of the watcher.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Bench;
use crate::blast::Blast;
use crate::door::{Door, Settings, now};
use crate::fleet::{address, keys, knock};
use crate::rig::{DAEMON_CORE, SENDER_CORE, Side};
use crate::service::Credulous;
use crate::stats::{Samples, micros, shown};
use crate::watch::{self, Watch};

pub(crate) fn measure(bench: &mut Bench) {
    let count = bench.scaled(1_000, 200);
    let mut raw = Vec::new();
    for (name, core) in [("the sender's core", SENDER_CORE), ("another core", DAEMON_CORE)] {
        eprintln!("  the daemon on {name}");
        let door = Door::new(&bench.programs.knockd, &Settings::default());
        let daemon = door.start_on(core);
        let own = times(count, || daemon.stamp());
        daemon.process.end();
        let limit = {
            let _credulous = Credulous::start(core);
            times(count, now)
        };
        let added = own.median().saturating_sub(limit.median());
        bench.report.row(
            &format!("datagram sent → element committed, idle, on {name}, median / p99"),
            &own.shown(),
            "",
            &limit.shown(),
            &format!("{} above the limit", shown(added)),
        );
        if core == SENDER_CORE {
            bench.report.bar(
                "datagram → element committed, p99, idle",
                "under 100 µs",
                &format!(
                    "{} (median {}) from before the sending to the watcher's waking; {} (median {}) with a daemon that believes everyone",
                    shown(own.p99()),
                    shown(own.median()),
                    shown(limit.p99()),
                    shown(limit.median()),
                ),
                micros(own.p99()) < 100.0,
            );
        }
        raw.push(json!({"on": name, "knockd": own.json(), "limit": limit.json()}));
    }
    bench.report.raw("element", json!(raw));
}

/// One knock at a time, each from a source of its own: from just before it is sent to the kernel's
/// notification.
fn times(count: u32, stamp: impl Fn() -> u64 + Sync) -> Samples {
    static NEXT: AtomicU32 = AtomicU32::new(10_000);
    let (keys, first) = (keys(0), NEXT.fetch_add(count, Ordering::Relaxed));
    let watch = Watch::start(Some(SENDER_CORE));
    let sent: Vec<(Ipv4Addr, Instant)> = Side::Device.within(Some(SENDER_CORE), || {
        let mut blast = Blast::new();
        let send = |device: u32| {
            let packet = knock(&keys, address(device), stamp());
            let at = Instant::now();
            blast.send(&[packet]);
            sleep(Duration::from_millis(5));
            (address(device), at)
        };
        (first..first + count).map(send).collect()
    });
    sleep(Duration::from_millis(50));
    let times = watch::times(&sent, &watch.finish());
    assert_eq!(times.len(), sent.len(), "not every knock opened");
    Samples::new(times)
}
