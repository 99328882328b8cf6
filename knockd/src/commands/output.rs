//! Where a command's answer goes: stdout for the answer, stderr for what happens next.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
};

use nix::sys::stat::{SFlag, fstat};

use serde::Serialize;

use super::{Exit, Failure};
use crate::escape;

/// For whom the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines to read.
    Human,
    /// One JSON document on one line.
    Json,
}

impl Format {
    /// The format that a `--json` flag asks for.
    #[must_use]
    pub const fn from_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Human }
    }
}

/// A command's two ways out.
///
/// What would steer a terminal is written out ([`escape`]), wherever a text comes from.
///
/// Nothing here panics when a pipe is closed: a reader that has seen enough (`| head`) is no failure.
pub struct Output<'a> {
    answer: &'a mut dyn Write,
    notes: &'a mut dyn Write,
    format: Format,
    /// The mode of the file that the answer goes to, if it is a file.
    mode: Option<u32>,
}

impl<'a> Output<'a> {
    /// The answer goes to the first, notes to the second.
    pub fn new(answer: &'a mut dyn Write, notes: &'a mut dyn Write, format: Format) -> Self {
        Self { answer, notes, format, mode: None }
    }

    /// The same for an answer that goes to a file of this mode, or (`None`) elsewhere.
    #[must_use]
    pub fn to_file(self, mode: Option<u32>) -> Self {
        Self { mode, ..self }
    }

    /// The mode of the file that the answer goes to, if it is a file.
    #[must_use]
    pub const fn mode(&self) -> Option<u32> {
        self.mode
    }

    /// For whom the answer is.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// One line of the answer, for people.
    ///
    /// # Errors
    /// [`Exit::IoErr`] if it can't be written; a closed pipe is none.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        forgiving(writeln!(self.answer, "{}", escape::lines(line.as_ref())))
    }

    /// The whole answer, for machines.
    ///
    /// # Errors
    /// [`Exit::IoErr`] if it can't be written; a closed pipe is none.
    pub fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = to_json(document)?;
        forgiving(writeln!(self.answer, "{text}"))
    }

    /// An answer that must arrive, since it is told once: here a closed pipe is a failure as well.
    ///
    /// # Errors
    /// What writing or flushing it failed with.
    pub fn deliver(&mut self, text: &str) -> io::Result<()> {
        self.answer.write_all(text.as_bytes())?;
        self.answer.flush()
    }

    /// A note on what happens next. That nobody reads it is no failure of the command.
    pub fn note(&mut self, note: impl AsRef<str>) {
        // There is nowhere left to report that stderr can't be written.
        let _ = writeln!(self.notes, "{}", escape::lines(note.as_ref()));
    }
}

/// The mode of the file that a descriptor leads to, if it is a plain file.
#[must_use]
pub fn file_mode(of: impl AsFd) -> Option<u32> {
    let mode = fstat(of).ok()?.st_mode;
    (mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()).then_some(mode)
}

/// A document as JSON on one line.
///
/// # Errors
/// [`Exit::Software`]: the types that are written here can all be told in JSON.
pub(crate) fn to_json(document: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(document)
        .map(|text| match escape::json(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(shown) => shown,
        })
        .map_err(|error| Failure::new(Exit::Software, format!("can't write the answer: {error}")))
}

fn forgiving(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::IoErr, format!("can't write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_that_is_printed_steers_a_terminal() {
        let (mut answer, mut notes) = (Vec::new(), Vec::new());
        let mut output = Output::new(&mut answer, &mut notes, Format::Human);
        output.line("\u{1b}]0;x\u{7}").unwrap();
        output.note("\u{1b}[2J");
        output.json(&["\u{9b}2J"]).unwrap();
        let printed = [answer, notes].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(printed[0], "\\u{1b}]0;x\\u{7}\n[\"\\u009b2J\"]\n");
        assert_eq!(printed[1], "\\u{1b}[2J\n");
    }

    #[test]
    fn a_closed_pipe_ends_the_answer_quietly_and_a_full_disk_does_not() {
        for (kind, exit) in
            [(ErrorKind::BrokenPipe, None), (ErrorKind::StorageFull, Some(Exit::IoErr))]
        {
            let (mut answer, mut notes) = (Fails(kind), Fails(kind));
            let mut output = Output::new(&mut answer, &mut notes, Format::Human);
            output.note("nobody listens");
            assert_eq!(output.line("text").err().map(|failure| failure.exit), exit);
            assert_eq!(output.json(&[1]).err().map(|failure| failure.exit), exit);
            assert!(output.deliver("told once").is_err());
        }
    }
}
