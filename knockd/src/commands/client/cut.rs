//! Cutting one `[[client]]` out of a file, and leaving all else in it as it is.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

/// The text without the client of this name; `None` if it isn't in it, or isn't under a `[[client]]` of
/// its own.
///
/// A comment right above its `[[client]]` goes with it, unless it begins the file: then it is about the
/// file. So do comments right below its last key, and the blank lines behind them.
pub(super) fn cut(text: &str, name: &str) -> Option<Zeroizing<String>> {
    let table = DeTable::parse(text).ok()?.into_inner();
    let DeValue::Array(clients) = table.get("client")?.get_ref() else { return None };
    let entry = clients.iter().find(|entry| {
        entry.get_ref().get("name").and_then(|name| name.get_ref().as_str()) == Some(name)
    })?;
    let DeValue::Table(keys) = entry.get_ref() else { return None };
    let header = entry.span().start;
    if !text.get(header..)?.starts_with("[[") {
        return None;
    }
    let last = keys.iter().map(|(_, value)| value.span().end).max()?;

    let lines = lines(text);
    let first_line = lines.iter().position(|line| line.contains(&header))?;
    let last_line = lines.iter().rposition(|line| line.start < last)?;
    let range = above(text, &lines, first_line)?..below(text, &lines, last_line)?;

    let mut rest = Zeroizing::new(String::with_capacity(text.len()));
    rest.push_str(text.get(..range.start)?);
    rest.push_str(text.get(range.end..)?);
    Some(rest)
}

/// The lines of a text, each with its end.
pub(super) fn lines(text: &str) -> Vec<Range<usize>> {
    let mut at = 0;
    text.split_inclusive('\n')
        .map(|line| {
            let start = at;
            at += line.len();
            start..at
        })
        .collect()
}

/// Where the comment right above a line begins; where the line does if that comment begins the file.
fn above(text: &str, lines: &[Range<usize>], header: usize) -> Option<usize> {
    let before = lines.get(..header)?;
    let comments = before.iter().rev().take_while(|line| is_comment(text, line)).count();
    let first = header - comments;
    lines.get(if first == 0 { header } else { first }).map(|line| line.start)
}

/// Where what is behind a line begins: behind the comments and blank lines that follow, but for a
/// comment right above another header.
fn below(text: &str, lines: &[Range<usize>], last: usize) -> Option<usize> {
    let behind = lines.get(last + 1..)?;
    let comments = behind.iter().take_while(|line| is_comment(text, line)).count();
    let blanks = behind.iter().skip(comments).take_while(|line| is_blank(text, line)).count();
    let its_own = if blanks == 0 && comments < behind.len() { 0 } else { comments + blanks };
    Some(behind.get(its_own).map_or(text.len(), |line| line.start))
}

fn is_comment(text: &str, line: &Range<usize>) -> bool {
    text.get(line.clone()).is_some_and(|line| line.trim_start().starts_with('#'))
}

fn is_blank(text: &str, line: &Range<usize>) -> bool {
    text.get(line.clone()).is_some_and(|line| line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# The presses of hall 7.
[[client]]
name = \"a\"
key = \"x\" # made in May
# expires = never

# press b
# is old
[[client]] # second
name = \"b\"
from = [
  \"10.0.0.0/8\",
]
# c is new
[[client]]
name = \"c\"
";

    fn without(name: &str) -> String {
        cut(FILE, name).unwrap().to_string()
    }

    #[test]
    fn the_comments_that_belong_to_an_entry_go_with_it_and_no_others() {
        let (head, tail) = FILE.split_at(FILE.find("[[client]]").unwrap());
        let b = tail.find("# press b").unwrap();
        assert_eq!(without("a"), format!("{head}{}", &tail[b..]));
        let c = tail.find("# c is new").unwrap();
        assert_eq!(without("b"), format!("{head}{}{}", &tail[..b], &tail[c..]));
        assert_eq!(without("c"), format!("{head}{}", &tail[..c]));
    }

    #[test]
    fn what_has_no_header_of_its_own_is_left_alone() {
        assert!(cut("client = [{ name = \"a\" }, { name = \"b\" }]\n", "a").is_none());
        assert!(cut(FILE, "d").is_none());
        assert!(cut("not = [ TOML", "a").is_none());
    }

    proptest! {
        #[test]
        fn the_neighbours_stay_byte_for_byte(
            blocks in prop::collection::vec(("(# [a-z]{0,5}\n){0,2}", "(\n|# [a-z]{0,5}\n){0,3}"), 1..6),
            end in "\r?\n",
            at in any::<prop::sample::Index>(),
        ) {
            let entry = |index: usize| format!("[[client]]{end}name = \"c{index}\"{end}key = \"k\"{end}");
            let text: String = blocks.iter().enumerate()
                .map(|(index, (above, below))| format!("{above}{}{below}", entry(index))).collect();
            let gone = at.index(blocks.len());
            let rest = cut(&text, &format!("c{gone}")).unwrap();
            for index in 0..blocks.len() {
                prop_assert_eq!(rest.contains(&entry(index)), index != gone);
            }
            let whole_entries = rest.matches("[[client]]").count();
            prop_assert_eq!(whole_entries, blocks.len() - 1);
        }
    }
}
