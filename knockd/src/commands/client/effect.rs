//! A change of the clients' files takes effect at once: the running daemon is asked to apply it.

use std::path::Path;

use crate::{
    commands::{Exit, Failure, Output, ask::no_answer, fallback, reload},
    control::{Reply, Request, client, configuration::Reloaded},
    gate::policy::ClientName,
};

/// Whether a change is in force.
pub(super) enum Effect {
    /// The running daemon goes by it.
    InForce(Box<Reloaded>),
    /// No daemon runs: the next one does.
    NoDaemon,
}

impl Effect {
    /// Has the daemon that listens there, if one does, apply what is in the files of this configuration, and the table
    /// that is kept for a boot follow; and end the connections of a client, if one is given.
    ///
    /// # Errors
    /// If the daemon refuses, or can't be asked: the files are changed then, and it doesn't go by them.
    pub(super) fn take(
        main: &Path,
        control: &Path,
        cut: Option<&ClientName>,
    ) -> Result<Self, Failure> {
        let request = Request::Reload { cut: cut.cloned() };
        let not_in_force = |failure: Failure| {
            let message = format!(
                "{failure}\nThe clients' files are as you wanted them; they take effect with `knockd reload`, when that is mended"
            );
            Failure::new(failure.exit, message)
        };
        match client::ask(control, &request) {
            Ok(Reply::Reloaded(mut reloaded)) => {
                if let Err(warning) = fallback::follow(main, reloaded.clients) {
                    reloaded.warning.get_or_insert(warning);
                }
                Ok(Self::InForce(reloaded))
            }
            Ok(Reply::NotReloaded(refusal)) => Err(not_in_force(reload::failure(&refusal))),
            Ok(Reply::Refused(refused)) => Err(not_in_force(refused.into())),
            Ok(_) => Err(not_in_force(crate::commands::ask::unexpected())),
            Err(error) => match no_answer(control, &error) {
                failure if is_no_daemon(&failure) => Ok(Self::NoDaemon),
                failure => Err(not_in_force(failure)),
            },
        }
    }

    /// Whether the running daemon goes by it.
    pub(super) const fn is_in_force(&self) -> bool {
        matches!(self, Self::InForce(_))
    }

    /// How many grants have ended with it.
    pub(super) fn grants_ended(&self) -> usize {
        match self {
            Self::InForce(reloaded) => reloaded.grants_ended,
            Self::NoDaemon => 0,
        }
    }

    /// How many connections have ended with it, where that was asked for.
    pub(super) fn connections_ended(&self) -> Option<usize> {
        match self {
            Self::InForce(reloaded) => reloaded.connections_ended,
            Self::NoDaemon => None,
        }
    }

    /// Notes whether it is in force.
    pub(super) fn note(&self, output: &mut Output<'_>) {
        match self {
            Self::InForce(reloaded) => {
                if let Some(warning) = &reloaded.warning {
                    output.note(format!("warning: not all of it is done yet: {warning}"));
                }
                for setting in &reloaded.settings {
                    output.note(format!(
                        "knockd.toml was changed as well, and is in force now: {} is {}",
                        setting.key, setting.is
                    ));
                }
                if let Some(ended) = reloaded.connections_ended {
                    output.note(format!("connections ended: {ended}"));
                }
                output.note("in force: the running daemon goes by it");
            }
            Self::NoDaemon => output.note("no daemon runs: it takes effect when knockd starts"),
        }
    }
}

fn is_no_daemon(failure: &Failure) -> bool {
    failure.exit == Exit::Unavailable && failure.message.starts_with("no daemon listens")
}
