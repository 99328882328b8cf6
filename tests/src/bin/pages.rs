//! Writes what comes with the programs into a folder: man pages, completions, changelogs, copyrights.
//!
//! The day that they are of is `SOURCE_DATE_EPOCH`, so that the same sources make the same files.
#![allow(clippy::expect_used, reason = "a tool of the build fails by panicking")]

use std::path::PathBuf;

use clap::Parser;
use e2e::pages::{self, Release};
use jiff::Timestamp;

/// Writes man pages, completions, changelogs and copyrights
#[derive(Parser)]
struct Args {
    /// The folder, which is made
    folder: PathBuf,
    /// The version that the packages will have
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Seconds since 1970: when the release was made
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    at: i64,
}

fn main() {
    let args = Args::parse();
    let at = Timestamp::from_second(args.at).expect("a time of these years");
    pages::write(&args.folder, &Release { version: args.version, at });
}
