//! What the journal holds of it: events with fields.

use serde_json::Value;

use crate::machine::Machine;
use crate::report::saw;
use crate::scenes::Stage;
use crate::scenes::install::{close, knock};
use crate::wait::wait_some;

pub(crate) fn play(stage: &mut Stage<'_>) {
    let (report, broker) = (&mut *stage.report, &stage.broker);
    report.check("journalctl -t knockd tells a grant, with its fields", || {
        let cursor = cursor(broker);
        knock(&["--wait"]).success();
        let granted = wait_some("the grant is told", || {
            entries(broker, &cursor, &["KNOCKD_DECISION=granted", "KNOCKD_CLIENT=press-17"])
                .into_iter()
                .next()
        });
        for field in [
            "KNOCKD_CLIENT",
            "KNOCKD_SOURCE",
            "KNOCKD_SERVICE",
            "KNOCKD_DECISION",
            "KNOCKD_EXPIRES",
        ] {
            let value =
                granted[field].as_str().unwrap_or_else(|| panic!("no {field} in {granted}"));
            saw(&format!("{field}={value}"));
        }
        assert_eq!(granted["_SYSTEMD_UNIT"], "knockd.service");
        assert_eq!(granted["KNOCKD_SERVICE"], "mqtts");
        close();
        wait_some("the closing is told", || {
            entries(broker, &cursor, &["KNOCKD_DECISION=closed"]).into_iter().next()
        });
    });
}

/// Where the journal ends now.
#[track_caller]
pub(crate) fn cursor(machine: &Machine) -> String {
    let last = machine.sh("journalctl --sync; journalctl -q -n 1 -o json --output-fields=MESSAGE");
    let last: Value = serde_json::from_str(&last).expect("a line of JSON");
    last["__CURSOR"].as_str().expect("a cursor").to_owned()
}

/// The daemon's events since a cursor that match.
#[track_caller]
pub(crate) fn entries(machine: &Machine, cursor: &str, matches: &[&str]) -> Vec<Value> {
    machine.run(&["journalctl", "--sync"]).success();
    // Not --after-cursor, which leaves out the first that matches where the cursor's own entry doesn't.
    let from = format!("--cursor={cursor}");
    let argv = ["journalctl", "-q", "--no-pager", "-o", "json", "-t", "knockd", &from];
    let output = machine.run(&[&argv[..], matches].concat());
    let entries =
        output.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    entries.filter(|entry: &Value| entry["__CURSOR"] != cursor).collect()
}
