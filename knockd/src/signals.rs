//! The signals that the daemon heeds: SIGTERM and SIGINT end it, SIGHUP has it apply a changed configuration.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Has a SIGHUP wait until [`Signals::watch`], instead of ending this process: a reload that is asked for while
/// the files are still being read. To be called before there is another thread.
///
/// # Errors
/// What the kernel says.
pub fn hold_back_reloads() -> io::Result<()> {
    Ok(SigSet::from(Number::SIGHUP).thread_block()?)
}

/// The signals that the daemon heeds.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
pub enum Signalled {
    /// To end; the name of the signal.
    End(&'static str),
    /// To apply a changed configuration.
    Reload,
}

impl Signals {
    /// Heeds them from here on. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        SigSet::from(Number::SIGHUP).thread_unblock()?;
        Ok(signals)
    }

    /// Waits for the next one. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.terminate.recv() => Signalled::End("SIGTERM"),
            _ = self.interrupt.recv() => Signalled::End("SIGINT"),
            _ = self.hang_up.recv() => Signalled::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_reload_that_is_asked_for_during_the_start_waits_and_ends_nothing() {
        hold_back_reloads().unwrap();
        // It would end this process otherwise.
        raise(Number::SIGHUP).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = runtime.block_on(async { Signals::watch().unwrap().next().await });
        assert!(matches!(asked, Signalled::Reload));
    }
}
