//! knockd: opens a time-limited nftables door for one address, on a single authorization packet.
//!
//! The rooms, in the order of a packet's way: listener, gate, journal, firewall, telemetry; the daemon
//! wires them. Imports run one way: `common` <- [`gate`] <- [`journal`], firewall, listener <- daemon.

pub mod activation;
pub mod admission;
pub mod cli;
pub mod client_counts;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod counts;
pub mod daemon;
pub mod drops;
pub mod escape;
pub mod firewall;
pub mod gate;
pub mod house;
pub mod journal;
pub mod listener;
pub mod local;
pub mod lost_counters;
pub mod memory;
pub mod mend;
pub mod metrics;
pub mod plain;
pub mod plan;
pub mod reconcile;
pub mod reload;
pub mod replies;
pub mod restore;
pub mod roster;
pub mod setback;
pub mod signals;
pub mod supervisor;
pub mod tags;
pub mod telemetry;
