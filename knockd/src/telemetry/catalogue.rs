//! The list of all events and their fields, for people and for the manual: `config/EVENTS.md` is the one place that
//! has it, and a test compares it with the code.

/// `config/EVENTS.md`: the tables of kinds and of fields, in Markdown.
pub const EVENTS: &str = include_str!("../../../config/EVENTS.md");

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    use super::*;
    use crate::{admission::Failure, gate::decision::Reason};

    /// Levels and fields of the events of one kind; whether every one of them has the field.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Kind {
        levels: BTreeSet<String>,
        fields: BTreeMap<String, bool>,
    }

    /// The cells of the rows of a section's table.
    fn rows(section: &str) -> Vec<Vec<&'static str>> {
        let (_, text) = EVENTS.split_once(&format!("\n## {section}\n")).unwrap();
        let text = text.split("\n## ").next().unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    fn names(cell: &'static str) -> impl Iterator<Item = &'static str> {
        cell.split('`').skip(1).step_by(2)
    }

    fn documented() -> BTreeMap<String, Kind> {
        let kind = |row: Vec<&'static str>| {
            let levels = row[1].split_whitespace().map(str::to_owned).collect();
            let sure = |field: &str| !row[2].contains(&format!("[`{field}`]"));
            let fields = names(row[2]).map(|field| (field.to_owned(), sure(field))).collect();
            (row[0].trim_matches('`').to_owned(), Kind { levels, fields })
        };
        rows("Kinds").into_iter().map(kind).collect()
    }

    /// The text up to the bracket that closes what is open.
    fn arguments(text: &str) -> &str {
        let (mut depth, mut in_text, mut escaped) = (1, false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_text => escaped = true,
                b'"' => in_text = !in_text,
                b'(' if !in_text => depth += 1,
                b')' if !in_text => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return &text[..at];
            }
        }
        panic!("a bracket is open: {text}");
    }

    /// The fields that stand before the message: each with its value, if that is a text.
    fn fields(arguments: &str) -> Vec<(String, Option<String>)> {
        let mut found = Vec::new();
        let mut rest = arguments.trim_start();
        while !rest.starts_with('"') {
            let (mut depth, mut in_text) = (0, false);
            let end = rest.bytes().position(|byte| {
                match byte {
                    b'"' => in_text = !in_text,
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                byte == b',' && depth == 0 && !in_text
            });
            let (field, after) = rest.split_at(end.expect("a message behind the fields"));
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let text = value.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            let name = name.trim().trim_start_matches(['%', '?']);
            found.push((name.to_owned(), text.map(str::to_owned)));
            rest = after[1..].trim_start();
        }
        found
    }

    fn told_in(path: &Path, kinds: &mut BTreeMap<String, Kind>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                told_in(&entry.unwrap().path(), kinds);
            }
            return;
        }
        let file = fs::read_to_string(path).unwrap();
        let code = file.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for level in ["error", "warn", "info", "debug"] {
            for call in code.split(&format!("{level}!(")).skip(1) {
                let text = arguments(call);
                let mut fields = fields(text);
                let is_event = |(name, _): &(String, Option<String>)| name == "event";
                let at = fields.iter().position(is_event);
                let at = at.unwrap_or_else(|| panic!("{}: no event: {call:.80}", path.display()));
                let event = fields.remove(at).1.expect("a name");
                let is_first = !kinds.contains_key(&event);
                let kind = kinds.entry(event).or_default();
                kind.levels.insert(level.to_owned());
                let here: BTreeSet<String> = fields.into_iter().map(|(name, _)| name).collect();
                // An optional value of tracing's: not in each.
                let optional = |name: &str| {
                    ["service", "times"].contains(&name) && text.contains(&format!(" {name},"))
                };
                for (name, sure) in &mut kind.fields {
                    *sure &= here.contains(name) && !optional(name);
                }
                for name in here {
                    let sure = is_first && !optional(&name);
                    kind.fields.entry(name).or_insert(sure);
                }
            }
        }
    }

    #[test]
    fn every_event_in_the_code_is_documented_with_its_levels_and_fields_and_no_other_is() {
        let mut told = BTreeMap::new();
        told_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut told);
        let mut documented = documented();
        for (event, kind) in &told {
            assert_eq!(documented.remove(event).as_ref(), Some(kind), "{event}");
        }
        assert_eq!(documented, BTreeMap::new(), "documented, and never told");
    }

    #[test]
    fn every_field_is_documented_and_so_is_every_reason() {
        let rows = rows("Fields");
        let known: BTreeSet<&str> = rows.iter().flat_map(|row| names(row[0])).collect();
        let kinds = documented();
        let used: BTreeSet<&str> =
            kinds.values().flat_map(|kind| kind.fields.keys().map(String::as_str)).collect();
        assert_eq!(used, known);
        let reasons = rows.iter().find(|row| row[0] == "`reason`").unwrap();
        let all: Vec<&str> = Reason::NAMES.into_iter().chain(Failure::NAMES).collect();
        assert_eq!(names(reasons[1]).collect::<Vec<_>>(), all);
    }
}
