//! Text from elsewhere, made fit to be shown: what would steer a terminal or begin a line of its own is written out.
//!
//! # Security considerations
//! - Whatever is printed passes here once, at the places that print: [`crate::commands::Output`], `main`, the
//!   log's lines, and the last error. Whoever makes a message need not think of it.
//! - Written out are control characters (C0, DEL and C1: ECMA-48 sequences begin with them), line and paragraph
//!   separators, and the characters that change the direction of text (Unicode Standard Annex #9).

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

/// A text on one line: an end of a line in it is written `\n`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character.escape_default().to_string())
}

/// A text of several lines, whose ends and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| match character {
        '\n' | '\t' => character.to_string(),
        _ => character.escape_default().to_string(),
    })
}

/// A JSON document on one line, as the same document: only texts in it can hold such characters.
#[must_use]
pub fn json(document: &str) -> Cow<'_, str> {
    escaped(document, |character| {
        let mut text = String::new();
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a text can't fail.
            let _ = write!(text, "\\u{unit:04x}");
        }
        text
    })
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if steers(character) {
            shown.push_str(&escape(character));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

const fn steers(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Writes the lines of a log: each write is one line, and its end the only one in it.
pub struct LogLine<W>(pub W);

impl<W: Write> Write for LogLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (body, end) = text.strip_suffix('\n').map_or((&*text, ""), |body| (body, "\n"));
        // In one piece, so that no other process' line comes in between.
        self.0.write_all(format!("{}{end}", line(body)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out_and_all_else_stays() {
        assert_eq!(line("\u{1b}[2J\u{9b}31m\r\u{7f}"), "\\u{1b}[2J\\u{9b}31m\\r\\u{7f}");
        assert_eq!(line("a\nb\tc"), "a\\nb\\tc");
        assert_eq!(lines("a\nb\tc\u{7}"), "a\nb\tc\\u{7}");
        assert_eq!(line("\u{202e}txt.exe\u{2066}"), "\\u{202e}txt.exe\\u{2066}");
        assert!(matches!(line("Überdruck 12 % \u{1f512} \\"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_line_of_the_log_is_one_line_whatever_is_told() {
        let mut log = Vec::new();
        LogLine(&mut log).write_all(b"refused: x\nERROR forged\x1b[0m\n").unwrap();
        assert_eq!(String::from_utf8(log).unwrap(), "refused: x\\nERROR forged\\u{1b}[0m\n");
    }

    proptest! {
        #[test]
        fn a_json_document_says_the_same(text in any::<String>()) {
            let document = serde_json::to_string(&text).unwrap();
            let shown = json(&document);
            prop_assert!(!shown.contains(steers));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }

        #[test]
        fn nothing_that_steers_is_left(text in any::<String>()) {
            prop_assert!(!line(&text).contains(steers));
            prop_assert!(!lines(&text).replace(['\n', '\t'], "").contains(steers));
        }
    }
}
