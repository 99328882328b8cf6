//! What `knockd doctor` finds on a broker's host.

use serde_json::Value;

use crate::{Door, World};

/// What the doctor finds, but for the clock, which is the machine's own.
#[track_caller]
pub fn findings(door: &Door<'_>) -> Vec<Value> {
    let answer = door.run(&["doctor", "--json"]).json();
    let mut findings = answer["findings"].as_array().expect("findings").clone();
    let faults = findings.iter().filter(|finding| finding["severity"] == "fault").count();
    assert_eq!(answer["ok"], faults == 0, "{answer}");
    findings.retain(|finding| finding["id"] != "clock-unsynchronized");
    findings
}

/// The names of these findings.
pub fn ids(findings: &[Value]) -> Vec<&str> {
    findings.iter().filter_map(|finding| finding["id"].as_str()).collect()
}

/// The one finding of this name.
#[track_caller]
pub fn the(findings: &[Value], id: &str) -> Value {
    let found: Vec<_> = findings.iter().filter(|finding| finding["id"] == id).collect();
    assert_eq!(found.len(), 1, "{id} in {findings:#?}");
    found[0].clone()
}

/// Runs what a finding says mends it.
#[track_caller]
pub fn mend(world: &World, finding: &Value) {
    let command = finding["mend"].as_str().expect("a command");
    world.broker().run(&["sh", "-c", command]).success();
}
