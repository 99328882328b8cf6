//! `knockd client export`: all clients as a table, without their keys.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    entry::{Entry, EntryKey},
    import::{TableFormat, table::FIELDS},
};
use crate::{
    commands::{Exit, Failure, Format, Output, moment::Moment},
    config,
    gate::policy::{AddressPolicy, ClientClock, Standing},
};

/// How to export.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// How the table is written; with --json, JSON lines
    #[arg(long, value_enum)]
    pub format: Option<TableFormat>,
}

/// Exports all clients.
///
/// # Errors
/// The configuration's mistakes; an answer that can't be written.
pub(super) fn run(
    config: &Path,
    args: &ExportArgs,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let config = config::load(config)?;
    let format = args.format.unwrap_or(match output.format() {
        Format::Human => TableFormat::Csv,
        Format::Json => TableFormat::Jsonl,
    });
    let rows = config.clients.iter().map(|client| row(&Entry::of(client, &config)));
    match format {
        TableFormat::Jsonl => {
            for row in rows {
                let object: Map<String, Value> =
                    COLUMNS.iter().map(|name| (*name).to_owned()).zip(row).collect();
                output.json(&object)?;
            }
        }
        TableFormat::Csv => {
            output.line(COLUMNS.join(","))?;
            for row in rows {
                // A cell is of letters, digits, spaces and a few signs, none of which CSV takes for its own.
                let cells: Vec<String> = row.iter().map(cell).collect();
                output.line(cells.join(","))?;
            }
        }
    }
    output
        .deliver("")
        .map_err(|error| Failure::new(Exit::IoErr, format!("can't write the table: {error}")))
}

/// All fields but the key.
const COLUMNS: &[&str] = match FIELDS.split_last() {
    Some((_, columns)) => columns,
    None => &[],
};

/// The values of an entry, in the order of the columns.
fn row(entry: &Entry) -> [Value; COLUMNS.len()] {
    let (from, generation) = match entry.key {
        EntryKey::Own(_) => ("own", Value::Null),
        EntryKey::Master(generation) => ("master", json!(generation)),
    };
    let texts = |list: Vec<String>| json!(list);
    [
        json!(entry.name.as_str()),
        texts(entry.services.iter().map(ToString::to_string).collect()),
        texts(entry.from.iter().map(ToString::to_string).collect()),
        json!(entry.expires.map(|expires| Moment::from(expires).to_string())),
        json!(match entry.address {
            AddressPolicy::Strict => "strict",
            AddressPolicy::Observed => "observed",
        }),
        json!(match entry.clock {
            ClientClock::Utc => "utc",
            ClientClock::Counter => "counter",
        }),
        json!(entry.standing == Standing::Enabled),
        json!(from),
        generation,
    ]
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
