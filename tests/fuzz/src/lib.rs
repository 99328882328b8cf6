//! What every input must leave true, one plain function for each fuzz target.
//!
//! A function takes whatever bytes it is given, makes a story of them, and panics if a promise is broken.
//! `fuzz_targets/` hands it libFuzzer's inputs; `tests/replay.rs` hands it those of the corpus, on a
//! stable compiler and without libFuzzer.
#![forbid(unsafe_code)]

mod config;
mod control;
mod decide;
mod input;
mod journal;
mod listing;
mod netlink;
mod planted;
mod profile;
mod reply;
mod request;
mod seal;

pub use config::config;
pub use decide::decide;
pub use journal::journal;
pub use listing::listing;
pub use netlink::netlink;
pub use profile::profile;
pub use request::request;

/// A target's name, which is also that of its folder in `corpus/`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("config", config),
    ("decide", decide),
    ("journal", journal),
    ("listing", listing),
    ("netlink", netlink),
    ("profile", profile),
    ("request", request),
];
