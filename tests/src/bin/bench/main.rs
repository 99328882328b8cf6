//! `make bench`: knockd and its peers side by side, in network namespaces of their own, against the limit
//! of the machine. Prints one table and how the bars were met; raw figures go to target/bench.json.
//!
//! Needs root and two cores: whoever sends at line rate has one of them, the daemon the other. knockd logs
//! a line for each grant, here to a file: the cost of that is in its figures.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a measurement fails by panicking, with a message that says what it was doing"
)]

mod blast;
mod count;
mod door;
mod fleet;
mod machine;
mod measures;
mod peers;
mod profile;
mod programs;
mod report;
mod rig;
mod running;
mod service;
mod stats;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::machine::Machine;
use crate::programs::{Needed, Programs};
use crate::report::Report;

#[derive(Parser)]
struct Args {
    /// What to measure; everything if nothing is named.
    what: Vec<What>,
    /// A short run: fewer samples, smaller floods.
    #[arg(long)]
    quick: bool,
    /// Measures this daemon instead of the one that is built here: before and after, with the same program.
    #[arg(long)]
    knockd: Option<PathBuf>,
    /// Where the raw figures go.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// From the start of the client to an accepted connection.
    Connect,
    /// From a datagram to its element in the kernel.
    Element,
    /// Up to a million doors open: to put the table right, to restart, to answer.
    Elements,
    /// Many valid knocks at once.
    Burst,
    /// Valid knocks under a flood of junk.
    Junk,
    /// Junk with a client's tag, in the names of the devices that knock.
    Sniffed,
    /// Up to a million clients.
    Clients,
    /// Junk from millions of forged sources.
    Forged,
    /// How much the client takes, and the daemon at rest.
    Sizes,
}

/// What every measurement has at hand.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) report: Report,
    pub(crate) quick: bool,
}

impl Bench {
    /// A number for a full run, and one for a quick one.
    pub(crate) const fn scaled(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    if measures::sizes::tell_memory_of_another() {
        return ExitCode::SUCCESS;
    }
    let args = Args::parse();
    rig::enter();
    eprintln!("building");
    let all = What::value_variants();
    let chosen = if args.what.is_empty() { all } else { &args.what };
    let with_clients = [What::Connect, What::Junk, What::Sizes];
    let needed = match chosen.iter().any(|what| with_clients.contains(what)) {
        true => Needed::All,
        false => Needed::Daemon,
    };
    let programs = Programs::build(needed, args.knockd);
    let mut bench = Bench { programs, report: Report::default(), quick: args.quick };
    service::serve();
    let machine = Machine::look();
    for what in chosen {
        eprintln!("{what:?}");
        match what {
            What::Connect => measures::connect::measure(&mut bench),
            What::Element => measures::element::measure(&mut bench),
            What::Elements => measures::elements::measure(&mut bench),
            What::Burst => measures::burst::measure(&mut bench),
            What::Junk => measures::junk::measure(&mut bench),
            What::Sniffed => measures::sniffed::measure(&mut bench),
            What::Clients => measures::clients::measure(&mut bench),
            What::Forged => measures::forged::measure(&mut bench),
            What::Sizes => measures::sizes::measure(&mut bench),
        }
    }
    bench.report.write(&args.json, &machine.json());
    let run = if args.quick { "a quick run" } else { "a full run" };
    bench.report.print(&format!("knockd beside its peers: {run} of {}", machine.shown()));
    if bench.report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
