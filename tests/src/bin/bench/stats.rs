//! Many measurements of one thing, and what is said of them.

use std::time::Duration;

/// Durations, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The smallest value that so many percent of the samples are at or below (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// For the raw figures.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "count": self.len(),
            "median_us": micros(self.median()),
            "p99_us": micros(self.p99()),
            "min_us": micros(self.0.first().copied().unwrap_or_default()),
            "max_us": micros(self.0.last().copied().unwrap_or_default()),
        })
    }

    /// Median and 99th percentile, as the table shows them.
    pub(crate) fn shown(&self) -> String {
        match self.len() {
            0 => "none".to_owned(),
            _ => format!("{} / {}", shown(self.median()), shown(self.p99())),
        }
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A duration in the unit that suits it.
pub(crate) fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}
