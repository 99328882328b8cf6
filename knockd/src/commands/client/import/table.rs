//! The table that is imported: CSV (RFC 4180) or JSON lines, as records of texts.
//!
//! What a spreadsheet makes of a table is read as well, where it can mean one thing only (`spreadsheet`).
//!
//! # Security considerations
//! A table may hold keys: what it says is never shown, but for the names of its columns where they are known. The
//! readers of CSV and JSON make copies that aren't wiped; who doesn't give keys has none in them.

use std::collections::HashMap;

use clap::ValueEnum;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{complaints::Complaints, spreadsheet};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Comma-separated values, with a line of column names
    Csv,
    /// A JSON object on each line
    Jsonl,
}

/// The fields there are, as `knockd client export` writes them, and the key at last.
pub(in super::super) const FIELDS: [&str; 10] = [
    "name",
    "services",
    "networks",
    "expires",
    "address",
    "clock",
    "enabled",
    "key-from",
    "key-generation",
    "key",
];

/// Other names of fields.
const ALIASES: [(&str, &str); 2] = [("from", "networks"), ("expiry", "expires")];

/// What one line of a table says.
pub(super) struct Record {
    /// The line, from 1.
    pub(super) line: u64,
    /// The values of each field that is there; none of one that is empty.
    pub(super) fields: HashMap<&'static str, Vec<Zeroizing<String>>>,
}

/// The field of this name, however a spreadsheet has it: in capitals, with a space or a low line in it.
fn field(name: &str) -> Option<&'static str> {
    let name = spreadsheet::bare(name).to_ascii_lowercase().replace([' ', '_'], "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, name)| name);
    FIELDS.into_iter().find(|field| *field == name)
}

fn unknown(which: &str) -> String {
    format!("{which} is none of the fields, which are {}", FIELDS.join(", "))
}

/// Reads all records.
pub(super) fn read(bytes: &[u8], format: TableFormat, complaints: &mut Complaints) -> Vec<Record> {
    if spreadsheet::is_utf16(bytes) {
        complaints.add(1, format!("this is UTF-16: {}", spreadsheet::SAVE_AS));
        return Vec::new();
    }
    let bytes = bytes.strip_prefix(spreadsheet::MARK).unwrap_or(bytes);
    match format {
        TableFormat::Csv => read_csv(bytes, complaints),
        TableFormat::Jsonl => read_json(bytes, complaints),
    }
}

fn read_csv(bytes: &[u8], complaints: &mut Complaints) -> Vec<Record> {
    let (delimiter, before, bytes) = spreadsheet::delimiter(bytes);
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).delimiter(delimiter).from_reader(bytes);
    let columns = match reader.headers() {
        Ok(headers) => columns(headers, 1 + before, complaints),
        Err(error) => {
            complaints.add(1 + before, csv_mistake(&error));
            Vec::new()
        }
    };
    if !complaints.is_empty() {
        return Vec::new();
    }
    let mut records = Vec::new();
    for record in reader.records() {
        match record {
            // A row that was emptied, and not deleted.
            Ok(record) if record.iter().all(|cell| spreadsheet::bare(cell).is_empty()) => {}
            Ok(record) => {
                let line = before + record.position().map_or(0, csv::Position::line);
                let mut fields = HashMap::new();
                for (number, (field, cell)) in (1..).zip(columns.iter().zip(&record)) {
                    match field {
                        Some(field) => drop(fields.insert(*field, values(field, cell))),
                        None if spreadsheet::bare(cell).is_empty() => {}
                        None => complaints.add(
                            line,
                            format!(
                                "column {number} has something in it, and no name in the first line"
                            ),
                        ),
                    }
                }
                records.push(Record { line, fields });
            }
            Err(error) => {
                let line = before + error.position().map_or(0, csv::Position::line);
                complaints.add(line, csv_mistake(&error));
            }
        }
    }
    records
}

/// The field of each column; none of one without a name.
fn columns(
    headers: &csv::StringRecord,
    line: u64,
    complaints: &mut Complaints,
) -> Vec<Option<&'static str>> {
    let mut columns = Vec::new();
    for (number, header) in (1..).zip(headers) {
        let field = field(header);
        if field.is_some() && columns.contains(&field) {
            let name = field.unwrap_or_default();
            complaints.add(line, format!("column {number} is a second one of {name}"));
        } else if field.is_none() && !spreadsheet::bare(header).is_empty() {
            complaints.add(line, unknown(&format!("the name of column {number}")));
        }
        columns.push(field);
    }
    columns
}

/// What is wrong, without a part of the text.
fn csv_mistake(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("there are {len} fields, and {expected_len} columns")
        }
        csv::ErrorKind::Utf8 { err, .. } => {
            let column = err.field() + 1;
            format!("column {column} has a byte that isn't UTF-8 text: {}", spreadsheet::SAVE_AS)
        }
        _ => "this isn't CSV".to_owned(),
    }
}

/// The values in a cell.
fn values(field: &str, cell: &str) -> Vec<Zeroizing<String>> {
    let text = |value: &str| Zeroizing::new(value.to_owned());
    if matches!(field, "services" | "networks") {
        let between = |character: char| character.is_whitespace() || ";,".contains(character);
        let values = cell.split(between).map(spreadsheet::bare);
        return values.filter(|value| !value.is_empty()).map(text).collect();
    }
    let cell = spreadsheet::bare(cell);
    (!cell.is_empty()).then(|| text(cell)).into_iter().collect()
}

fn read_json(bytes: &[u8], complaints: &mut Complaints) -> Vec<Record> {
    let mut records = Vec::new();
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let Ok(Value::Object(object)) = serde_json::from_slice(text) else {
            complaints.add(line, "this isn't a JSON object: write one on each line");
            continue;
        };
        let mut fields = HashMap::new();
        for (name, value) in object {
            let Some(field) = field(&name) else {
                complaints.add(line, unknown("the name of a field"));
                continue;
            };
            match json_values(value).map(|values| fields.insert(field, values)) {
                Some(None) => {}
                Some(Some(_)) => complaints.add(line, format!("{field} is there twice")),
                None => complaints.add(line, format!("{field} is neither a text nor texts")),
            }
        }
        records.push(Record { line, fields });
    }
    records
}

fn json_values(value: Value) -> Option<Vec<Zeroizing<String>>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) if text.is_empty() => Some(Vec::new()),
        Value::String(text) => Some(vec![Zeroizing::new(text)]),
        Value::Bool(value) => Some(vec![Zeroizing::new(value.to_string())]),
        Value::Number(number) => Some(vec![Zeroizing::new(number.to_string())]),
        Value::Array(list) => {
            let texts = list.into_iter().map(|value| match value {
                Value::String(text) => Some(Zeroizing::new(text)),
                _ => None,
            });
            texts.collect()
        }
        Value::Object(_) => None,
    }
}
