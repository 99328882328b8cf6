//! Changing keys of one `[[client]]`, and leaving every other byte of its file as it is.
//!
//! # Security considerations
//! The text holds keys. It is copied once, into a buffer that is wiped; an editor that builds a tree of its own
//! would leave copies behind.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::cut::lines;

/// A change of one key.
pub(super) enum Edit<'a> {
    /// To this value, in TOML. Where the key isn't there yet, it goes below another one.
    Set {
        /// The key.
        key: &'a str,
        /// Its value.
        value: &'a str,
        /// The key that it goes below.
        below: &'a str,
    },
    /// Away, with its line.
    Remove(&'a str),
}

/// What takes the place of a range of the text.
struct Splice {
    range: Range<usize>,
    text: Zeroizing<String>,
}

/// The text with these changes of the client of this name; `None` if it isn't in it, or isn't under a
/// `[[client]]` of its own.
pub(super) fn edit(text: &str, name: &str, edits: &[Edit<'_>]) -> Option<Zeroizing<String>> {
    let table = DeTable::parse(text).ok()?.into_inner();
    let DeValue::Array(clients) = table.get("client")?.get_ref() else { return None };
    let entry = clients.iter().find(|entry| {
        entry.get_ref().get("name").and_then(|name| name.get_ref().as_str()) == Some(name)
    })?;
    let DeValue::Table(keys) = entry.get_ref() else { return None };
    if !text.get(entry.span().start..)?.starts_with("[[") {
        return None;
    }
    let lines = lines(text);
    let mut splices = Vec::new();
    for edit in edits {
        splices.extend(match edit {
            Edit::Set { key, value, below } => Some(set(text, &lines, keys, key, value, below)?),
            Edit::Remove(key) if keys.get(*key).is_none() => None,
            Edit::Remove(key) => Some(remove(&lines, keys, key)?),
        });
    }
    // Stable: what goes below the same line stays in its order, and goes in before the next line is removed.
    splices.sort_by_key(|splice| (splice.range.start, splice.range.end));
    let more: usize = splices.iter().map(|splice| splice.text.len()).sum();
    let mut edited = Zeroizing::new(String::with_capacity(text.len() + more));
    let mut at = 0;
    for Splice { range, text: new } in &splices {
        edited.push_str(text.get(at..range.start)?);
        edited.push_str(new);
        at = range.end;
    }
    edited.push_str(text.get(at..)?);
    Some(edited)
}

fn set(
    text: &str,
    lines: &[Range<usize>],
    keys: &DeTable<'_>,
    key: &str,
    value: &str,
    below: &str,
) -> Option<Splice> {
    let with_room = |room: usize| Zeroizing::new(String::with_capacity(room));
    if let Some(found) = keys.get(key) {
        let mut new = with_room(value.len());
        new.push_str(value);
        return Some(Splice { range: found.span(), text: new });
    }
    let (above, at) = keys.get_key_value(below)?;
    let first = lines.iter().find(|line| line.contains(&above.span().start))?;
    let indent = text.get(first.start..above.span().start)?;
    let last = lines.iter().rfind(|line| line.start < at.span().end)?;
    let line = text.get(last.clone())?;
    let end = if line.ends_with("\r\n") { "\r\n" } else { "\n" };
    let mut new = with_room(indent.len() + key.len() + value.len() + 8);
    if !line.ends_with('\n') {
        new.push_str(end);
    }
    for part in [indent, key, " = ", value, end] {
        new.push_str(part);
    }
    Some(Splice { range: last.end..last.end, text: new })
}

fn remove(lines: &[Range<usize>], keys: &DeTable<'_>, key: &str) -> Option<Splice> {
    let (key, value) = keys.get_key_value(key)?;
    let first = lines.iter().find(|line| line.contains(&key.span().start))?;
    let last = lines.iter().rfind(|line| line.start < value.span().end)?;
    Some(Splice { range: first.start..last.end, text: Zeroizing::default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# The presses of hall 7.
[[client]] # first
name = \"a\"
  key   =  \"x\" # made in May
enabled = true # for now

[[client]]
name = \"b\"
key = 'y'
from = [
  \"10.0.0.0/8\", # the hall
]";

    fn set_to<'a>(key: &'a str, value: &'a str, below: &'a str) -> Edit<'a> {
        Edit::Set { key, value, below }
    }

    fn edited(name: &str, edits: &[Edit<'_>]) -> String {
        edit(FILE, name, edits).unwrap().to_string()
    }

    #[test]
    fn a_value_is_replaced_where_it_stands_and_its_comment_stays() {
        let a = edited("a", &[set_to("enabled", "false", "key")]);
        assert_eq!(a, FILE.replace("enabled = true", "enabled = false"));
        let b = edited("b", &[set_to("key", "\"z\"", "name")]);
        assert_eq!(b, FILE.replace("'y'", "\"z\""));
    }

    #[test]
    fn keys_that_are_new_go_below_another_in_their_order_with_its_indent() {
        let a = edited("a", &[set_to("old-key", "\"w\"", "key"), set_to("until", "1", "key")]);
        let line = "  key   =  \"x\" # made in May\n";
        let with = format!("{line}  old-key = \"w\"\n  until = 1\n");
        assert_eq!(a, FILE.replace(line, &with));
        let b = edited("b", &[set_to("enabled", "false", "from")]);
        assert_eq!(b, format!("{FILE}\nenabled = false\n"));
    }

    #[test]
    fn a_key_is_removed_with_its_lines_and_what_is_not_there_is_none() {
        assert_eq!(
            edited("a", &[Edit::Remove("enabled"), Edit::Remove("old-key")]),
            FILE.replace("enabled = true # for now\n", "")
        );
        let from = FILE.find("from").unwrap();
        assert_eq!(edited("b", &[Edit::Remove("from")]), FILE[..from]);
    }

    #[test]
    fn keys_go_in_where_the_next_line_is_removed() {
        let edits =
            [set_to("new", "1", "key"), Edit::Remove("enabled"), set_to("newer", "2", "key")];
        let with = FILE.replace("enabled = true # for now\n", "  new = 1\n  newer = 2\n");
        assert_eq!(edited("a", &edits), with);
    }

    #[test]
    fn what_has_no_header_of_its_own_is_left_alone() {
        let inline = "client = [{ name = \"a\", key = \"x\" }]\n";
        assert!(edit(inline, "a", &[set_to("key", "1", "name")]).is_none());
        assert!(edit(FILE, "c", &[]).is_none());
        assert!(edit("not = [ TOML", "a", &[]).is_none());
        assert_eq!(*edit(FILE, "a", &[]).unwrap(), FILE);
    }

    proptest! {
        #[test]
        fn every_other_byte_of_the_file_stays(
            blocks in prop::collection::vec(
                ("(# [a-z]{0,5}\n){0,2}", "[ \t]{0,2}", "( # [a-zä]{0,3})?", "(\n|# [a-z]{0,5}\n){0,3}"),
                1..6,
            ),
            end in "\r?\n",
            at in any::<prop::sample::Index>(),
        ) {
            let meant = at.index(blocks.len());
            let text = |key: &str, more: &str| -> String {
                blocks.iter().enumerate().map(|(index, (above, indent, comment, below))| {
                    let (key, more) = if index == meant { (key, more) } else { ("x", "") };
                    let more = match more {
                        "" => String::new(),
                        more => format!("{indent}{more}{end}"),
                    };
                    format!(
                        "{above}[[client]]{end}name = \"c{index}\"{end}{indent}key = \"{key}\"{comment}{end}{more}{below}"
                    )
                }).collect()
            };
            let name = format!("c{meant}");
            let edits = [set_to("key", "\"new\"", "name"), set_to("old-key", "\"x\"", "key")];
            let changed = edit(&text("x", ""), &name, &edits).unwrap();
            prop_assert_eq!(&*changed, &text("new", "old-key = \"x\""));
            // And back.
            let edits = [set_to("key", "\"x\"", "name"), Edit::Remove("old-key")];
            prop_assert_eq!(&*edit(&changed, &name, &edits).unwrap(), &text("x", ""));
        }
    }
}
