//! `knock`: sends the one sealed datagram that opens a door in front of a broker, and returns.
//!
//! The way of a [`run()`]: `cli` reads the command line, `find` the [`profile`], `plan` makes of both
//! what is to be done. Up to here nothing touches the network. Then `resolve` finds the server's
//! addresses, `send` sends a `packet` to each, `wait` probes the port if asked to, and `command`
//! hands over to what comes after. With `--keep`, `keep` does all of this again and again.

mod check;
mod cli;
mod command;
mod counter;
pub mod duration;
pub mod endpoint;
mod exit;
mod find;
mod keep;
mod key;
mod keygen;
mod nat;
mod numbers;
mod options;
mod output;
mod packet;
mod plan;
mod private_file;
mod probes;
pub mod profile;
mod reply;
mod report;
mod resolve;
mod run;
mod send;
mod storage;
mod unit;
mod wait;

#[cfg(feature = "clap")]
pub use cli::command_line;
pub use run::run;
