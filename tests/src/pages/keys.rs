//! The commented files in `config/` as man(7): every key with what is said above it.

use super::manual::{bold, prose};

/// A part of such a file.
enum Part<'f> {
    /// Comments that no key follows.
    Text(Vec<&'f str>),
    /// A table's header, with what is said above it.
    Table(&'f str, Vec<&'f str>),
    /// A key and its value, with what is said above it.
    Key { name: &'f str, value: &'f str, commented: bool, said: Vec<&'f str> },
}

/// The parts of a file. A line `#key = value` is a key like one without the `#`, as is `#[table]`.
fn parts(file: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut said = Vec::new();
    for line in file.lines() {
        if let Some(text) = line.strip_prefix("# ").or((line == "#").then_some("")) {
            said.push(text);
            continue;
        }
        let (line, commented) = line.strip_prefix('#').map_or((line, false), |line| (line, true));
        if line.is_empty() {
            if !said.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut said)));
            }
        } else if line.starts_with('[') {
            parts.push(Part::Table(line, std::mem::take(&mut said)));
        } else {
            let (name, value) =
                line.split_once(" = ").unwrap_or_else(|| panic!("{line:?} is no key"));
            parts.push(Part::Key { name, value, commented, said: std::mem::take(&mut said) });
        }
    }
    parts
}

/// Lines of comments, as paragraphs.
fn paragraphs(lines: &[&str]) -> String {
    let line = |line: &&str| if line.is_empty() { ".PP".to_owned() } else { prose(line) };
    lines.iter().map(line).fold(String::new(), |text, line| text + &line + "\n")
}

/// What begins a file: comments above its first key and table.
pub(super) fn intro(file: &str) -> String {
    let first = parts(file).into_iter().map_while(|part| match part {
        Part::Text(lines) => Some(format!(".PP\n{}", paragraphs(&lines))),
        _ => None,
    });
    first.collect()
}

/// Every table and key of a file.
///
/// `values` says what the values of lines that begin with `#` are: `default` or `example`.
pub(super) fn list(file: &str, values: &str) -> String {
    let shown = match values {
        "default" => "Default",
        "example" => "Example",
        _ => panic!("values are `default` or `example`, not {values:?}"),
    };
    let parts = parts(file).into_iter().skip_while(|part| matches!(part, Part::Text(_)));
    parts
        .map(|part| match part {
            Part::Text(lines) => format!(".PP\n{}", paragraphs(&lines)),
            Part::Table(header, said) => {
                format!(".SS {header}\n{}", paragraphs(&said))
            }
            Part::Key { name, value, commented, said } => {
                let shown = if commented { shown } else { "As it comes" };
                let value = format!("{shown}: {value}");
                let said = paragraphs(&said);
                format!(".TP\n{}\n{said}.br\n{}\n", bold(name), prose(&value))
            }
        })
        .collect()
}
