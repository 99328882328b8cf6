//! The new text of the file of clients: what doesn't change stays as it is, to the byte.

use std::{collections::HashMap, ops::Range};

use zeroize::Zeroizing;

use super::{
    super::cut::lines,
    plan::{Change, Planned},
};

const HEAD: &str = "# Written by `knockd client import`.\n";

/// A text, and where in it what a table's lines say is.
pub(super) struct Text {
    pub(super) text: Zeroizing<String>,
    /// Line of the text, line of the table; in the order of the text.
    places: Vec<(u32, u64)>,
}

impl Text {
    /// The line of the table that a line of the text is of.
    pub(super) fn line_of_table(&self, line: u32) -> Option<u64> {
        let after = self.places.partition_point(|(start, _)| *start <= line);
        self.places.get(after.checked_sub(1)?).map(|(_, line)| *line)
    }
}

/// The text that was there, if one was, with what is planned. `entries` are the lines of its entries with their
/// clients' names. `None` if an entry isn't under a `[[client]]` of its own.
pub(super) fn text(
    before: Option<&str>,
    entries: &[(u32, &str)],
    planned: &[Planned],
) -> Option<Text> {
    let updated: HashMap<&str, &Planned> = planned
        .iter()
        .filter(|it| it.change == Change::Updated)
        .map(|it| (it.entry.name.as_str(), it))
        .collect();
    let added = planned.iter().filter(|it| it.change == Change::Added);
    let old = before.unwrap_or(HEAD);
    let room: usize = planned.iter().map(|it| it.entry.room()).sum();
    let mut new = Writer {
        text: Zeroizing::new(String::with_capacity(old.len() + room + 2 * planned.len() + 2)),
        line: 1,
        places: Vec::new(),
    };
    let lines = lines(old);
    let starts: Option<Vec<(usize, &str)>> = entries
        .iter()
        .map(|(line, name)| {
            let at = usize::try_from(*line).ok()?.checked_sub(1)?;
            let range: &Range<usize> = lines.get(at)?;
            let is_header = old.get(range.clone())?.trim_start().starts_with("[[");
            is_header.then_some((range.start, *name))
        })
        .collect();
    let starts = starts?;
    new.push(old.get(..starts.first().map_or(old.len(), |(start, _)| *start))?);
    let ends = starts.iter().skip(1).map(|(start, _)| *start).chain([old.len()]);
    for ((start, name), end) in starts.iter().zip(ends) {
        let part = old.get(*start..end)?;
        match updated.get(name) {
            None => new.push(part),
            Some(planned) => {
                new.entry(planned);
                new.push(tail(part));
            }
        }
    }
    for planned in added {
        new.break_line();
        new.push("\n");
        new.entry(planned);
    }
    Some(Text { text: new.text, places: new.places })
}

/// What stands behind an entry: comments and empty lines.
fn tail(part: &str) -> &str {
    let mut start = part.len();
    for line in part.split_inclusive('\n').rev() {
        let is_empty = line.trim().is_empty() || line.trim_start().starts_with('#');
        if !is_empty {
            break;
        }
        start -= line.len();
    }
    part.get(start..).unwrap_or_default()
}

struct Writer {
    text: Zeroizing<String>,
    line: u32,
    places: Vec<(u32, u64)>,
}

impl Writer {
    fn push(&mut self, part: &str) {
        self.text.push_str(part);
        let breaks = part.bytes().filter(|byte| *byte == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
    }

    fn break_line(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.push("\n");
        }
    }

    fn entry(&mut self, planned: &Planned) {
        self.places.push((self.line, planned.line));
        let mut entry = Zeroizing::new(String::with_capacity(planned.entry.room()));
        planned.entry.write(&mut entry);
        self.push(&entry);
    }
}
