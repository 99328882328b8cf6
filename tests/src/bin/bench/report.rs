//! What was measured: one table, the bars, and all raw figures as JSON.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// What is collected while measuring.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    bars: Vec<Bar>,
    raw: Map<String, Value>,
    /// What could not be measured.
    failures: Vec<String>,
}

/// A line of the table.
struct Row {
    what: String,
    knockd: String,
    peer: String,
    limit: String,
    ratio: String,
}

/// A bar of the table, and how it went.
struct Bar {
    name: String,
    wanted: String,
    measured: String,
    met: bool,
}

impl Report {
    /// A line: what, knockd's figure, the best peer's, the limit's, and the ratios.
    pub(crate) fn row(&mut self, what: &str, knockd: &str, peer: &str, limit: &str, ratio: &str) {
        let own = str::to_owned;
        self.rows.push(Row {
            what: own(what),
            knockd: own(knockd),
            peer: own(peer),
            limit: own(limit),
            ratio: own(ratio),
        });
    }

    /// A bar, and whether it was met.
    pub(crate) fn bar(&mut self, name: &str, wanted: &str, measured: &str, met: bool) {
        let own = str::to_owned;
        self.bars.push(Bar { name: own(name), wanted: own(wanted), measured: own(measured), met });
    }

    /// Raw figures.
    pub(crate) fn raw(&mut self, name: &str, value: Value) {
        self.raw.insert(name.to_owned(), value);
    }

    /// Something could not be measured.
    pub(crate) fn failed(&mut self, what: &str, why: &str) {
        eprintln!("    could not be measured: {what}: {why}");
        self.failures.push(format!("{what}: {why}"));
    }

    /// Whether all was measured.
    pub(crate) fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// Writes the raw figures.
    pub(crate) fn write(&self, path: &Path, machine: &Value) {
        let bars: Vec<Value> = self
            .bars
            .iter()
            .map(|bar| {
                json!({"bar": bar.name, "wanted": bar.wanted, "measured": bar.measured, "met": bar.met})
            })
            .collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({"what": row.what, "knockd": row.knockd, "best peer": row.peer, "limit": row.limit, "ratio": row.ratio})
            })
            .collect();
        let all = json!({
            "machine": machine, "table": rows, "bars": bars, "raw": self.raw, "failures": self.failures,
        });
        let text = serde_json::to_string_pretty(&all).expect("JSON");
        fs::write(path, text + "\n").unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    /// Prints the table and the bars, as Markdown.
    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}\n");
        let rows: Vec<[&str; 5]> = self
            .rows
            .iter()
            .map(|row| [&*row.what, &*row.knockd, &*row.peer, &*row.limit, &*row.ratio])
            .collect();
        table(["", "knockd", "best peer", "limit on this rig", "ratio"], &rows);
        println!();
        let rows: Vec<[&str; 4]> = self
            .bars
            .iter()
            .map(|bar| [&*bar.name, &*bar.wanted, &*bar.measured, verdict(bar.met)])
            .collect();
        table(["bar", "wanted", "measured", ""], &rows);
        for failure in &self.failures {
            println!("\ncould not be measured: {failure}");
        }
    }
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn table<const N: usize>(head: [&str; N], rows: &[[&str; N]]) {
    let mut widths = head.map(|cell| cell.chars().count().max(3));
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: &[&str; N]| {
        let cells: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("| {} |", cells.join(" | "));
    };
    line(&head);
    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    println!("| {} |", dashes.join(" | "));
    for row in rows {
        line(row);
    }
}
