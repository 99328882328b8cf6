//! The daemon is killed while devices knock, and is stuck.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::knocks::{RATE, grants};
use crate::lan::{self, Found, MQTTS};
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock};
use crate::scenes::journal;
use crate::wait::{pass, wait};
use crate::watchdog;

/// How often it is killed under one stream.
const KILLS: usize = 4;
/// For how long before it is killed the daemon may have a packet in hand: a disk may take that long.
const IN_HAND: Duration = Duration::from_millis(500);
/// How many devices' packets somebody captures, of those whose doors are shut again.
const COPIES: usize = 8;
/// A drop-in of the daemon's.
const WATCHDOG: &str = "/etc/systemd/system/knockd.service.d/watchdog.conf";

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker, fleet) = (&mut *stage.report, &stage.broker, &stage.fleet);
    let name = format!(
        "kill -9 under {RATE} knocks a second loses none but what it had in hand, and lets none in twice"
    );
    report.check(&name, || {
        let (cursor, stream) = (journal::cursor(broker), fleet.stream());
        sleep(Duration::from_secs(1));
        let (mut copies, mut kills) = (0, Vec::new());
        for _ in 0..KILLS {
            let before = broker.daemon().expect("the daemon runs");
            let begun = Instant::now();
            broker.run(&["kill", "-9", &before.to_string()]).success();
            kills.push(begun..Instant::now());
            broker.until_daemon_is_another(before);
            // While others go on knocking, somebody sends what he heard just before and during the kill.
            copies += stream.send_copies(Duration::from_secs(3));
            sleep(Duration::from_millis(500));
        }
        let knocks = stream.stop();
        // What it had taken from the socket and not opened yet, since it waited for the disk: used, and not in. Their
        // devices knock again, and are among those that are all in.
        let was_in_hand =
            |at: Instant| kills.iter().any(|kill| at + IN_HAND > kill.start && at < kill.end);
        let lost = knocks.all_granted_but(broker, was_in_hand);
        let told = knocks.told(broker, &cursor);
        saw(&format!(
            "{} knocks at {:.0} a second, all granted but {lost}, over {KILLS} kills; {} told as granted, {copies} copies sent",
            knocks.count(),
            knocks.rate(),
            told.len()
        ));
        assert!(copies > 0 && !told.is_empty(), "no copies were sent, or nothing was told");
        let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "granted more than once: {twice:?}");
    });
    report.check("captured copies, sent again afterwards, prolong no grant", || {
        let cursor = journal::cursor(broker);
        let stream = fleet.stream();
        sleep(Duration::from_secs(2));
        let before = broker.daemon().expect("the daemon runs");
        broker.run(&["kill", "-9", &before.to_string()]).success();
        broker.until_daemon_is_another(before);
        // All that this stream sent until now, after it is known to be in.
        wait("the stream goes on", || {
            !journal::entries(broker, &cursor, &["KNOCKD_DECISION=granted"]).is_empty()
        });
        sleep(Duration::from_secs(1));
        let granted_before = grants(broker);
        let copies = stream.send_copies(Duration::from_secs(10));
        let knocks = stream.stop();
        knocks.all_granted(broker);
        let refused = || journal::entries(broker, &cursor, &["KNOCKD_DECISION=refused"]).len();
        wait("copies are refused", || refused() > 0);
        saw(&format!("{copies} copies; refused and told one by one: {}", refused()));
        let now = grants(broker);
        for (address, left) in &granted_before {
            let left_now = now.get(address).unwrap_or_else(|| panic!("{address} lost its grant"));
            assert!(left_now <= left, "{address} had {left} s left, and now has {left_now} s");
        }
    });
    report.check("and they open no door that is shut again, nor after another kill -9", || {
        let stream = fleet.stream();
        sleep(Duration::from_secs(1));
        let knocks = stream.stop();
        knocks.all_granted(broker);
        let captured = knocks.last(COPIES);
        let find = |found: Found| {
            for &address in &captured {
                let seen = lan::connect_from(Some(address), lan::broker()[0], MQTTS);
                assert_eq!(seen, found, "from {address}");
            }
        };
        find(Found::Open);
        let cursor = journal::cursor(broker);
        let before = broker.daemon().expect("the daemon runs");
        broker.run(&["kill", "-9", &before.to_string()]).success();
        broker.until_daemon_is_another(before);
        for address in &captured {
            broker.run(&["knockd", "revoke", &address.to_string()]).success();
        }
        knocks.send_copies_of(&captured);
        // Still fresh: it is the memory of them that refuses them.
        let replayed = || {
            let entries = journal::entries(broker, &cursor, &["KNOCKD_REASON=replayed"]);
            let source = |entry: &Value| entry["KNOCKD_SOURCE"].as_str()?.parse().ok();
            entries.iter().filter_map(source).collect::<BTreeSet<Ipv4Addr>>()
        };
        wait("every copy is refused as replayed", || {
            let replayed = replayed();
            captured.iter().all(|address| replayed.contains(address))
        });
        saw(&format!("{COPIES} doors shut again, {COPIES} copies refused as replayed"));
        find(Found::Silence);
    });
    // Sooner than as it comes, so that the test needn't wait; by what systemd tells it, as ever.
    broker.write(WATCHDOG, "[Service]\nWatchdogSec=15s\n");
    broker.sh("systemctl daemon-reload; systemctl restart knockd");
    report.check("a quiet daemon is left alone", || {
        let before = broker.daemon();
        let limit = watchdog::limit(broker) + Duration::from_secs(10);
        pass(limit, "nobody knocks for longer than WatchdogSec=");
        assert_eq!(broker.daemon(), before);
    });
    report.check(
        "a stuck daemon is restarted by its watchdog, and knocks meanwhile are taken",
        || {
            let before = broker.daemon().expect("the daemon runs");
            let limit = watchdog::limit(broker);
            saw(&format!("WatchdogSec={}", limit.as_secs()));
            let start = Instant::now();
            broker.run(&["kill", "-STOP", &before.to_string()]).success();
            // Three quarters of that later, somebody knocks: his packet waits in the socket.
            sleep(limit * 3 / 4);
            knock(&["--open-for=120s"]).success();
            let after = broker.until_daemon_is_another(before);
            saw(&format!(
                "process {before} became {after} after {:.0} s",
                start.elapsed().as_secs_f64()
            ));
            wait("the knock that waited is granted", || {
                grants(broker).contains_key(&lan::v4(lan::DEVICES))
            });
            assert!(broker.show("knockd.service", "NRestarts").parse::<u32>().unwrap() > 0);
            close();
        },
    );
    broker.sh(&format!("rm {WATCHDOG}; systemctl daemon-reload; systemctl restart knockd"));
}
