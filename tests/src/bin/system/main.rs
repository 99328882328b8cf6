//! `make test-system`: the packages on a real Debian 13, and the essential scenes on Debian 12. Fresh root file
//! systems are booted with systemd-nspawn, the packages are installed in them by apt, and knocked at from another network namespace, with mosquitto behind the
//! door: installed, enabled, rebooted, upgraded, killed, stuck, purged.
//!
//! Prints what it saw, one check at a time, and ends with how many passed. `system upgrade kill` runs those scenes
//! alone, after the ones that all others stand on. Needs root; everything happens in namespaces of its own, and ends
//! with them.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a check fails by panicking, with a message that says what it was doing"
)]

mod inside;
mod knocks;
mod lan;
mod machine;
mod packages;
mod probes;
mod report;
mod rootfs;
mod scenes;
mod wait;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

use crate::packages::Packages;
use crate::report::Report;
use crate::rootfs::Release;
use crate::scenes::Scene;

#[derive(Parser)]
struct Args {
    /// What to show; everything if nothing is named.
    scenes: Vec<Scene>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !inside::is_inside() {
        return inside::run_inside(|| {
            Release::ALL.into_iter().for_each(Release::ensure);
            Packages::build();
        });
    }
    inside::begin();
    let mut report = Report::default();
    scenes::play(&mut report, &args.scenes);
    report.end()
}
