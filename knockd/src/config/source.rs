//! One file's text while it is read: which line a byte is in, and where its mistakes go.

use std::{path::Path, sync::Arc};

use toml::de::DeTable;

use super::mistake::{Mistake, MistakeKind};

/// A place in a file, which stays good when the file's text is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What is wrong with one value, and what to write instead where that is more than the key's example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What goes on after the key's name: "is missing".
    pub(super) what: String,
    pub(super) instead: Option<String>,
}

impl Wrong {
    /// Wrong in this way; the key's example shows what to write.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), instead: None }
    }

    /// Wrong in this way, and this is what to do.
    pub(super) fn with(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { what: what.into(), instead: Some(instead.into()) }
    }
}

/// The file that is being read, and the list that its mistakes are added to.
pub(super) struct Report<'a> {
    file: Arc<Path>,
    /// Where each line but the first begins, in bytes.
    line_starts: Vec<usize>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Report<'a> {
    /// A report on a file of this text.
    pub(super) fn new(file: &Path, text: &str, mistakes: &'a mut Vec<Mistake>) -> Self {
        let line_starts =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file: file.into(), line_starts: line_starts.collect(), mistakes }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> u32 {
        let before = self.line_starts.partition_point(|start| *start <= at);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The place of a byte.
    pub(super) fn origin(&self, at: usize) -> Origin {
        Origin { file: Arc::clone(&self.file), line: self.line(at) }
    }

    /// Adds a mistake at this byte.
    pub(super) fn add(
        &mut self,
        at: usize,
        key: impl Into<String>,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) {
        let mistake = Mistake {
            file: self.file.to_path_buf(),
            line: Some(self.line(at)),
            key: key.into(),
            what: what.into(),
            instead: instead.into(),
            kind: MistakeKind::Content,
        };
        self.mistakes.push(mistake);
    }

    /// The file's tables; `None` if it isn't TOML, which ends the reading of this file.
    ///
    /// The parser keeps a copy of the text in its error, to print the line at fault. It is dropped
    /// here, unprinted: its descriptions are fixed texts, and only they and the place are used.
    pub(super) fn parse<'t>(&mut self, text: &'t str) -> Option<DeTable<'t>> {
        match DeTable::parse(text) {
            Ok(table) => Some(table.into_inner()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.add(
                    at,
                    "",
                    format!("this isn't TOML: {}", error.message()),
                    "write it as https://toml.io has it: KEY = VALUE, texts in \"quotes\"",
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_in_the_line_that_began_last() {
        let mut mistakes = Vec::new();
        let report = Report::new(Path::new("f"), "ab\n\ncd\n", &mut mistakes);
        for (at, line) in [(0, 1), (2, 1), (3, 2), (4, 3), (6, 3), (7, 4), (99, 4)] {
            assert_eq!(report.line(at), line, "{at}");
        }
    }
}
