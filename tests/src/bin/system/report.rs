//! What was seen: named checks, the facts that each found, and how many passed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// The checks so far.
#[derive(Default)]
pub(crate) struct Report {
    passed: usize,
    failed: Vec<String>,
    begun: Option<Instant>,
}

/// What a check that passed may be followed by.
pub(crate) type Passed<T> = Option<T>;

impl Report {
    /// A group of checks.
    pub(crate) fn scene(&mut self, title: &str) {
        self.begun.get_or_insert_with(Instant::now);
        println!("\n{title}");
    }

    /// One check: it fails if `look` panics, and the run goes on.
    pub(crate) fn check<T>(&mut self, name: &str, look: impl FnOnce() -> T) -> Passed<T> {
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(look)) {
            Ok(found) => {
                println!("  ok      {name} ({:.1} s)", start.elapsed().as_secs_f64());
                self.passed += 1;
                Some(found)
            }
            Err(_) => {
                println!("  FAILED  {name}");
                self.failed.push(name.to_owned());
                None
            }
        }
    }

    /// A scene panicked between its checks.
    pub(crate) fn broke_off(&mut self, scene: &str) {
        println!("  FAILED  the rest of it");
        self.failed.push(format!("{scene}, the rest of it"));
    }

    /// How many have failed.
    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Says how it went; the last line is "N passed, N failed".
    pub(crate) fn end(self) -> ExitCode {
        println!();
        for name in &self.failed {
            println!("FAILED: {name}");
        }
        let took = self.begun.map_or(0, |begun| begun.elapsed().as_secs());
        println!("the system test took {took} s");
        println!("{} passed, {} failed", self.passed, self.failed.len());
        if self.failed.is_empty() && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Tells a fact that a check saw.
pub(crate) fn saw(fact: &str) {
    for line in fact.lines() {
        println!("    | {line}");
    }
}
