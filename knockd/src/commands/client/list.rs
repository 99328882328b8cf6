//! `knockd client list`: who may knock, without their keys.

use std::path::Path;

use serde::Serialize;

use crate::{
    commands::{Failure, Format, Output, moment::Moment},
    config::{self, Environment, Origin},
    gate::policy::{AddressPolicy, Client, Standing},
};

/// A client as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Listed {
    name: String,
    services: Vec<String>,
    from: Vec<String>,
    address: &'static str,
    expires: Option<String>,
    enabled: bool,
    /// Until when its old key is good, or was.
    old_key_until: Option<String>,
    file: String,
    line: u32,
}

impl Listed {
    pub(super) fn new(client: &Client, origin: &Origin) -> Self {
        Self {
            name: client.name.to_string(),
            services: client.services.iter().map(ToString::to_string).collect(),
            from: client.from.iter().map(ToString::to_string).collect(),
            address: match client.address {
                AddressPolicy::Strict => "strict",
                AddressPolicy::Observed => "observed",
            },
            expires: client.expires.map(|expires| Moment::from(expires).to_string()),
            enabled: client.standing == Standing::Enabled,
            old_key_until: client.old_key.as_ref().map(|old| Moment::from(old.until).to_string()),
            file: origin.file.display().to_string(),
            line: origin.line,
        }
    }

    /// What there is of it, each under its name.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let [name, services, from, address, expires, enabled, file] = self.columns();
        let mut lines = vec![
            ("name", name),
            ("services", services),
            ("from", from),
            ("address", address),
            ("expires", expires),
            ("enabled", enabled),
        ];
        lines.extend(self.old_key_until.clone().map(|until| ("old key", format!("until {until}"))));
        lines.push(("file", format!("{file}:{}", self.line)));
        lines
    }

    fn columns(&self) -> [String; 7] {
        let or = |list: &[String], none: &str| {
            if list.is_empty() { none.to_owned() } else { list.join(",") }
        };
        [
            self.name.clone(),
            or(&self.services, "none"),
            or(&self.from, "anywhere"),
            self.address.to_owned(),
            self.expires.clone().unwrap_or_else(|| "never".to_owned()),
            if self.enabled { "yes" } else { "no" }.to_owned(),
            self.file.clone(),
        ]
    }
}

#[derive(Serialize)]
struct List {
    clients: Vec<Listed>,
}

const HEAD: [&str; 7] = ["NAME", "SERVICES", "FROM", "ADDRESS", "EXPIRES", "ENABLED", "FILE"];

/// Lists the clients.
///
/// # Errors
/// The configuration's mistakes; an answer that can't be written.
pub(super) fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let located = config::load_located(config, &Environment::of_process())?;
    let all = located.config.clients.iter().zip(&located.origins);
    let clients: Vec<_> = all.map(|(client, origin)| Listed::new(client, origin)).collect();
    if output.format() == Format::Json {
        return output.json(&List { clients });
    }
    if clients.is_empty() {
        output.note("there is no client yet: knockd client add NAME --service SERVICE makes one");
        return Ok(());
    }
    let rows: Vec<_> = clients.iter().map(Listed::columns).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    output.line(aligned(&HEAD, &widths))?;
    for row in &rows {
        output.line(aligned(row, &widths))?;
    }
    Ok(())
}

fn aligned(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.as_ref()));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}
