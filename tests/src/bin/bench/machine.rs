//! What the figures were measured on, and whether it was busy with something else.

use std::fs;
use std::process::Command;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

use serde_json::{Value, json};

/// The machine, and the day.
pub(crate) struct Machine {
    shown: String,
    /// How much of the processors' time others took just before, of 1.
    busy: f64,
}

impl Machine {
    /// Looks for a second at what else runs.
    pub(crate) fn look() -> Self {
        let before = times();
        sleep(Duration::from_secs(1));
        let after = times();
        let total: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        let idle = (after[3] + after[4]) - (before[3] + before[4]);
        let busy = 1.0 - idle as f64 / total.max(1) as f64;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": ?");
        let date = Command::new("date").args(["-u", "+%F"]).output().expect("run date").stdout;
        let shown = format!(
            "{}, {} cores, {}, Linux {}",
            String::from_utf8_lossy(&date).trim(),
            available_parallelism().map_or(0, usize::from),
            model.trim_start_matches(['\t', ':', ' ']),
            read("/proc/sys/kernel/osrelease").trim(),
        );
        if busy > 0.1 {
            eprintln!("NOTE: this machine is {:.0} % busy with something else", busy * 100.0);
        }
        Self { shown, busy }
    }

    /// In one line.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn json(&self) -> Value {
        json!({"what": self.shown, "busy_before": self.busy})
    }
}

/// The columns of the first line of /proc/stat: proc(5).
fn times() -> Vec<u64> {
    let stat = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|time| time.parse().ok()).collect();
    assert_eq!(times.len(), 8, "/proc/stat is other than expected");
    times
}
