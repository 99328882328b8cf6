//! An attacker who has sniffed a tag of today, and floods with it in the names of all devices that knock.

use std::time::Duration;

use serde_json::json;

use crate::Bench;
use crate::blast::Sources;
use crate::measures::junk::flood;

/// Packets a second; at last as many as go out.
const RATES: [Option<u32>; 5] = [Some(20_000), Some(50_000), Some(100_000), Some(200_000), None];

pub(crate) fn measure(bench: &mut Bench) {
    let lasts = Duration::from_secs(bench.scaled(5, 2).into());
    let devices = bench.scaled(100, 40);
    let mut raw = Vec::new();
    for rate in RATES {
        let name = rate.map_or("line rate".to_owned(), |rate| format!("{rate}/s"));
        eprintln!("  a sniffed tag in the devices' names, {name}");
        let flood = flood(bench, "sniffed tag", (true, Sources::Devices(devices)), rate, lasts);
        bench.report.row(
            &format!(
                "a sniffed tag in the devices' names, {name}: opened, median / p99, of a core"
            ),
            &format!(
                "{} of {}, {}, {:.1} %, {:.1} % lost at the socket, {:.0}/s came",
                flood.opened.len(),
                flood.knocks,
                flood.opened.shown(),
                flood.share * 100.0,
                flood.dropped as f64 / (flood.rate * lasts.as_secs_f64()) * 100.0,
                flood.rate,
            ),
            "",
            "",
            "",
        );
        raw.push(flood.json());
    }
    bench.report.raw("sniffed", json!({"devices": devices, "floods": raw}));
}
