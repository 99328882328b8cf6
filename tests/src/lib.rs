//! A small internet for end-to-end tests: hosts that are network namespaces, joined by a wire, with
//! the real `knockd`, `knock`, nftables, mosquitto and nmap running on them.
//!
//! Works as root and, but for what needs [another user](has_another_user), as an ordinary user: everything happens
//! inside a user namespace of its own, so
//! nothing here can touch the machine's own firewall, network or processes. When a [`World`] goes,
//! by `Drop`, by panic or because the test was killed, everything in it goes too.
//!
//! From the bottom up:
//!
//! - [`process`] runs commands, [`mod@until`] waits for conditions instead of sleeping,
//! - [`world`] and [`topology`] make the hosts, [`wire`] makes raw packets for the `packet` tool,
//! - [`binaries`] builds the programs under test,
//! - [`probe`], [`capture`], [`counters`], [`echo`], [`mosquitto`] and [`foreign`] are the real parts
//!   around them, [`flood`] is the attacker with a raw socket,
//! - [`clock`] is a clock that a test can set, for one process alone,
//! - [`door`] is `knockd` with its configuration and its devices, [`table`] what it has in the kernel,
//! - [`fleet`] is many devices that knock once each,
//! - [`story`] tells the demo.
//!
//! Beside that: [`pages`] writes man pages, completions, and a package's changelog and copyright.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test harness fails by panicking, with a message that says what it was doing"
)]

pub mod binaries;
pub mod capture;
pub mod clock;
pub mod counters;
pub mod diagnosis;
pub mod door;
pub mod echo;
pub mod fleet;
pub mod flood;
pub mod foreign;
pub mod managed;
pub mod mosquitto;
pub mod pages;
pub mod probe;
pub mod process;
pub mod story;
pub mod table;
pub mod topology;
pub mod until;
pub mod wire;
pub mod world;

pub use capture::Capture;
pub use clock::FakeClock;
pub use counters::Counters;
pub use door::{Daemon, Device, Door, Settings};
pub use echo::{Echo, Talk};
pub use flood::Flood;
pub use foreign::Foreign;
pub use mosquitto::Mosquitto;
pub use probe::State;
pub use process::{Output, Process};
pub use until::until;
pub use world::{Host, World};

/// Leaves out what needs another user, where an ordinary user runs the tests.
pub const WITHOUT_ANOTHER_USER: &str = "KNOCK_TESTS_WITHOUT_ANOTHER_USER";

/// Whether there can be another user than the one that the tests run as.
///
/// # Panics
/// If there can't be, and nobody has said by [`WITHOUT_ANOTHER_USER`] that what needs one is to be left out: a test that
/// shows nothing must not pass.
#[must_use]
#[track_caller]
pub fn has_another_user() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        return true;
    }
    let is_left_out = std::env::var_os(WITHOUT_ANOTHER_USER).is_some();
    assert!(
        is_left_out,
        "this needs another user: run it as root, or set {WITHOUT_ANOTHER_USER}=1"
    );
    false
}
