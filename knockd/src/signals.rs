//! The signals that the daemon heeds: SIGTERM and SIGINT end it, SIGHUP has it apply changed clients.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// To apply changed clients.
    Reload,
}

impl Signals {
    /// Heeds them from here on. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
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
