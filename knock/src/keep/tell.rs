//! What a keeper tells: for people each change of state once, for machines every event as one line of JSON, and
//! the service manager the state it is in.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::Args,
    keep::notify::Manager,
    output::{self, Output},
};

/// One event, as a line of JSON has it. The names are stable.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Event {
    /// `sent`, `open`, `refused`, `failed`, `network`, `reread`, `warning`, `ended` or `closed`.
    pub(super) event: &'static str,
    /// The server's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    /// This device's own address on the way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    /// The service's port that was probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<String>,
    /// Whether that shows that the knock arrived: not where the port was open before, or nothing can be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proven: Option<bool>,
    /// How long after the knock it was found open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after_ms: Option<u64>,
    /// When the next knock comes, from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_ms: Option<u64>,
    /// What is wrong, or what there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    /// The command's exit status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exit_code: Option<u8>,
}

/// Tells events. What can't be written ends nothing: a door isn't given up because a log is full.
#[derive(Debug)]
pub(super) struct Teller {
    output: Output,
    manager: Manager,
    /// What people were told last, which isn't told again while it lasts.
    told: Option<String>,
}

impl Teller {
    /// As the flags and the environment say.
    pub(super) fn new(args: &Args) -> Self {
        let manager = Manager::of_this_process();
        Self { output: Output::of(args), manager, told: None }
    }

    /// Tells machines alone.
    pub(super) fn note(&self, event: &Event) {
        if self.output == Output::Json
            && let Ok(mut line) = serde_json::to_string(event)
        {
            line.push('\n');
            let _ = output::write(&line);
        }
    }

    /// Tells a change of state.
    pub(super) fn tell(&mut self, text: &str, event: &Event) {
        if self.is_news(text) {
            let _ = self.output.tell(&format!("{text}\n"));
        }
        self.note(event);
    }

    /// Tells something that is wrong: people the first time, machines each time.
    pub(super) fn complain(&mut self, text: String, event: Event) {
        if self.is_news(&text) {
            output::complain(&format!("knock: {text}\n"));
        }
        self.note(&Event { text: Some(text), ..event });
    }

    /// Warns.
    pub(super) fn warn(&self, text: &str) {
        self.output.warn(text);
        self.note(&Event { event: "warning", text: Some(text.to_owned()), ..Event::default() });
    }

    /// Tells the service manager the state, and nobody else.
    pub(super) fn status(&self, text: &str) {
        self.manager.tell(&format!("STATUS={text}"));
    }

    /// Tells the service manager that this is started.
    pub(super) fn is_ready(&self) {
        self.manager.tell("READY=1");
    }

    /// Tells the service manager that this is the end.
    pub(super) fn is_stopping(&self) {
        self.manager.tell("STOPPING=1\nSTATUS=closing the door");
    }

    /// Whether this wasn't told just now; the service manager has it then.
    fn is_news(&mut self, text: &str) -> bool {
        if self.told.as_deref() == Some(text) {
            return false;
        }
        self.status(text);
        self.told = Some(text.to_owned());
        true
    }
}

/// A time as events have it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
