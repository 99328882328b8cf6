//! What other rules on this host do with a packet: the whole ruleset as data, and a walk through it.
//!
//! [`nft`] and [`iptables`] make the same [`model`] of what the two programs list; [`walk`] leads a [`packet`]
//! through it. What can't be judged is neither taken for a match nor for none: the walk goes both ways, and
//! says "may drop".

pub(super) mod iptables;
pub(super) mod model;
pub(super) mod nft;
pub(super) mod packet;
pub(super) mod read;
pub(super) mod walk;

#[cfg(test)]
mod tests;
