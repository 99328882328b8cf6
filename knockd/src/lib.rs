//! The daemon's rooms.
pub mod gate;
