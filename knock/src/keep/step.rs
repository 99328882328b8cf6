//! What is done about a door at present, what is waited for meanwhile, and what is known.

use std::time::Duration;

use crate::{probes::Probes, reply::Replies};

/// What is done at present.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing, until it is time for a sign of the door, or to renew, or to try again.
    Pause(Duration),
    /// The resolver is waited for.
    Lookup(Duration),
    /// It is looked whether the door has stayed open.
    Check(Next),
    /// The door was knocked at, and is to open.
    Opening,
}

/// What comes after a look at a door that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Knock,
    Pause,
}

/// What may come in while a step lasts.
#[derive(Debug)]
pub(super) enum Awaited {
    Nothing,
    Probes(Probes),
    Replies(Replies),
}

/// What is known of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing yet, or nothing on this way.
    Unknown,
    /// It opened, and nothing says that it isn't open still.
    Open,
    /// It was shut when it should have been open, and no knock has failed since.
    EndedEarly,
    /// A knock did not open it, or could not be sent.
    Shut,
}
