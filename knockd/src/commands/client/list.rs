//! `knockd client list`: who may knock, without their keys.

use std::{collections::HashMap, path::Path};

use serde::Serialize;

use crate::{
    commands::{Failure, Format, Output, moment::Moment},
    config::{self, Environment, Origin},
    control::{self, Reply, Request, SkewSeen, Skews},
    gate::policy::{AddressPolicy, Client, ClientClock, Standing},
    telemetry::seconds,
};

/// A client as `--json` has it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Listed {
    name: String,
    services: Vec<String>,
    from: Vec<String>,
    address: &'static str,
    clock: &'static str,
    /// How far the device's clock was off when the daemon last accepted a packet of it; none if that isn't known.
    skew_ms: Option<i64>,
    /// When that was.
    skew_seen: Option<String>,
    expires: Option<String>,
    enabled: bool,
    /// Until when its old key is good, or was.
    old_key_until: Option<String>,
    file: String,
    line: u32,
}

impl Listed {
    pub(super) fn new(client: &Client, origin: &Origin, skew: Option<&SkewSeen>) -> Self {
        Self {
            name: client.name.to_string(),
            services: client.services.iter().map(ToString::to_string).collect(),
            from: client.from.iter().map(ToString::to_string).collect(),
            address: match client.address {
                AddressPolicy::Strict => "strict",
                AddressPolicy::Observed => "observed",
            },
            clock: match client.clock {
                ClientClock::Utc => "utc",
                ClientClock::Counter => "counter",
            },
            skew_ms: skew.map(|skew| skew.skew_ms),
            skew_seen: skew.map(|skew| skew.seen.clone()),
            expires: client.expires.map(|expires| Moment::from(expires).to_string()),
            enabled: client.standing == Standing::Enabled,
            old_key_until: client.old_key.as_ref().map(|old| Moment::from(old.until).to_string()),
            file: origin.file.display().to_string(),
            line: origin.line,
        }
    }

    /// What there is of it, each under its name.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let [name, services, from, address, expires, enabled, clock, file] = self.columns();
        let mut lines = vec![
            ("name", name),
            ("services", services),
            ("from", from),
            ("address", address),
            ("expires", expires),
            ("enabled", enabled),
            ("clock", clock),
        ];
        lines.extend(self.old_key_until.clone().map(|until| ("old key", format!("until {until}"))));
        lines.push(("file", format!("{file}:{}", self.line)));
        lines
    }

    fn columns(&self) -> [String; 8] {
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
            match self.skew_ms {
                Some(skew) => format!("{}{}s", self.clock, seconds(skew)),
                None => self.clock.to_owned(),
            },
            self.file.clone(),
        ]
    }
}

#[derive(Serialize)]
struct List {
    clients: Vec<Listed>,
}

const HEAD: [&str; 8] =
    ["NAME", "SERVICES", "FROM", "ADDRESS", "EXPIRES", "ENABLED", "CLOCK", "FILE"];

/// Lists the clients.
///
/// # Errors
/// The configuration's mistakes; an answer that can't be written.
pub(super) fn run(config: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let located = config::load_located(config, &Environment::of_process())?;
    let all = located.config.clients.iter().zip(&located.origins);
    let skews = skews(&located.config.control);
    let clients: Vec<_> = all
        .map(|(client, origin)| Listed::new(client, origin, skews.get(client.name.as_str())))
        .collect();
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

/// How far clients' clocks were off, by their names, as the running daemon has seen it; none if no daemon answers:
/// who is listed doesn't depend on it.
fn skews(control: &Path) -> HashMap<String, SkewSeen> {
    let mut seen = HashMap::new();
    let mut from = Some(0);
    while let Some(place) = from {
        let reply = control::client::ask(control, &Request::Skews { from: place });
        let Ok(Reply::Skews(Skews { skews, next })) = reply else { break };
        seen.extend(skews.into_iter().map(|skew| (skew.client.clone(), skew)));
        from = next.filter(|next| *next > place);
    }
    seen
}

fn aligned(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.as_ref()));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}
