//! Runs a command in a test, and keeps what it says.

use super::{Failure, Format, Output};

/// What a command said, and how it ended.
pub(crate) struct Told {
    pub(crate) result: Result<(), Failure>,
    pub(crate) answer: String,
    pub(crate) notes: String,
}

pub(crate) fn run_to_end(
    format: Format,
    command: impl FnOnce(&mut Output<'_>) -> Result<(), Failure>,
) -> Told {
    let (mut answer, mut notes) = (Vec::new(), Vec::new());
    let result = command(&mut Output::new(&mut answer, &mut notes, format));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { result, answer: text(answer), notes: text(notes) }
}
