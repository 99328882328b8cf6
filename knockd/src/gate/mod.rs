//! Every security decision, and nothing else: no clock, no input or output, no randomness.
pub mod policy;
