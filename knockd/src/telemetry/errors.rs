//! Remembers the last event at level error, for `knockd status`, and counts them.

use std::{
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::rfc3339;
use crate::{clock, escape};

/// Longest message that is remembered, in bytes; of a longer one its beginning.
pub(super) const MESSAGE_MAX: usize = 512;

/// The last event at level error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastError {
    /// When: RFC 3339.
    pub at: String,
    /// What it said, on one line ([`escape::line`]): at most 512 bytes.
    pub message: String,
}

/// How many errors there were in this process, and the last one.
static ERRORS: Mutex<(u64, Option<LastError>)> = Mutex::new((0, None));

/// How many events at level error there were in this process, and the last one.
#[must_use]
pub fn errors() -> (u64, Option<LastError>) {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sees every event.
pub(super) struct ErrorKeeper;

impl<S: Subscriber> Layer<S> for ErrorKeeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let last = LastError { at: rfc3339(clock::now().utc), message: message.0 };
        let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
        *errors = (errors.0 + 1, Some(last));
    }
}

/// An event's message, up to 512.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // It says no more when it is full.
            let _ = write!(self, "{value:?}");
        }
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = &*escape::line(text);
        let room = MESSAGE_MAX - self.0.len();
        let fits = text.floor_char_boundary(room.min(text.len()));
        self.0.push_str(text.get(..fits).unwrap_or_default());
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn the_last_error_is_remembered_and_no_more_of_it_than_fits() {
        let before = errors().0;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(ErrorKeeper), || {
            tracing::error!(reason = "x", "the first");
            tracing::warn!("no error");
            assert_eq!(errors().1.unwrap().message, "the first");
            tracing::error!("{}", "\u{1b}[2J\nfake");
            assert_eq!(errors().1.unwrap().message, "\\u{1b}[2J\\nfake");
            tracing::error!("{}", "ü".repeat(MESSAGE_MAX));
        });
        let (count, last) = errors();
        assert_eq!((count, last.unwrap().message), (before + 3, "ü".repeat(MESSAGE_MAX / 2)));
    }
}
