//! Keeps this process' memory to itself: it holds keys.
//!
//! # Security considerations
//! A process that isn't dumpable (prctl(2), PR_SET_DUMPABLE) leaves no core, also where the kernel hands cores to a
//! program and no limit of their size counts (core(5)), and no other process of its user can read its memory or trace
//! it. Root can.

use std::io;

use nix::sys::prctl;

/// Forbids dumps of this process' memory, for as long as it runs this program.
///
/// # Errors
/// What the kernel says, or a filter of system calls in front of it.
pub fn forbid_dumps() -> io::Result<()> {
    prctl::set_dumpable(false).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_forbidden_it_is_not_dumpable() {
        forbid_dumps().unwrap();
        assert_eq!(prctl::get_dumpable(), Ok(false));
    }
}
