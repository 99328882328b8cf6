//! The measurements, each with its rows of the table and its bars.

pub(crate) mod burst;
pub(crate) mod clients;
pub(crate) mod connect;
pub(crate) mod element;
pub(crate) mod elements;
pub(crate) mod forged;
pub(crate) mod junk;
pub(crate) mod sizes;
pub(crate) mod sniffed;
