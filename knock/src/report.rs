//! What happened, for people and for machines: the same facts as lines of text and as one JSON object.
//!
//! # Security considerations
//! No type in here has room for a key. What `--dry-run` shows is a valid datagram, which opens the door
//! for its sender's address as long as its timestamp is fresh; that is what it is asked for.

use std::fmt::Write as _;

use common::{Action, ClientAddress, DoorState, OpenFor};
use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::{
    check::Leg,
    counter::{Change, CounterFile},
    endpoint::ServicePort,
    exit::Error,
    plan::Plan,
    probes::{Accepted, NO_PROOF, Proof},
    reply::Replied,
    send::{Outcome, Rehearsed, Unreachable},
};

/// Everything there is to tell about a run. The names of the JSON's keys are stable.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    profile: Option<String>,
    server: Option<String>,
    /// Null for every service that the client may open.
    service: Option<String>,
    action: Option<&'static str>,
    /// Seconds; null for the daemon's default.
    open_for: Option<u32>,
    dry_run: bool,
    sent: Vec<Sent>,
    failed: Vec<Failed>,
    /// With `--dry-run`, the packets that would have been sent.
    unsent: Vec<Unsent>,
    replies: Vec<Answer>,
    open: Option<Open>,
    /// What `--check` found.
    legs: Vec<Leg>,
    /// What `--set-counter` did.
    counter: Option<Counted>,
    warnings: Vec<String>,
    error: Option<String>,
    exit_code: u8,
}

#[derive(Debug, Serialize)]
struct Sent {
    to: String,
    address: String,
    /// The last packet's.
    timestamp: u64,
    packets: usize,
}

#[derive(Debug, Serialize)]
struct Failed {
    to: String,
    error: String,
}

#[derive(Debug, Serialize)]
struct Unsent {
    to: String,
    address: String,
    timestamp: u64,
    day: u32,
    tag: String,
    datagram: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Open {
    to: String,
    port: String,
    after_ms: u64,
    /// Whether that shows that the knock arrived: not where the port was open before, and no reply says so.
    proven: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    from: String,
    /// Whether the door is open; it is closed otherwise.
    open: bool,
    /// Until when, in milliseconds since 1970 by the server's clock.
    open_until: Option<u64>,
    /// For how long from now.
    open_for_ms: Option<u64>,
    /// The address that the server saw, and that the door is for.
    address: String,
    /// The server's clock, in milliseconds since 1970.
    clock: u64,
    /// The server's clock less this device's.
    clock_offset_ms: i64,
    after_ms: u64,
}

#[derive(Debug, Serialize)]
struct Counted {
    file: String,
    last: u64,
    changed: bool,
}

impl Report {
    /// Notes the replies that came.
    pub(crate) fn replied(&mut self, replies: &[Replied]) {
        self.replies = replies.iter().map(Answer::of).collect();
    }

    /// One line for each reply.
    pub(crate) fn replies_as_text(&self) -> String {
        let mut text = String::new();
        for Answer { from, open_for_ms, address, clock_offset_ms, .. } in &self.replies {
            let door = match open_for_ms {
                Some(millis) => format!("open for {} s", millis / 1000),
                None => "closed".to_owned(),
            };
            let offset = seconds(*clock_offset_ms);
            line(
                &mut text,
                format_args!(
                    "reply from {from}: {door}, for {address}; its clock is {offset} s off this one"
                ),
            );
        }
        text
    }

    /// Notes that the counter was set.
    pub(crate) fn counted(&mut self, file: &CounterFile, last: u64, change: Change) {
        let changed = change == Change::Done;
        self.counter = Some(Counted { file: file.path().display().to_string(), last, changed });
    }

    /// That the counter is set.
    pub(crate) fn counted_as_text(&self) -> String {
        self.counter.as_ref().map_or_else(String::new, |Counted { file, last, .. }| {
            format!("{file} is at {last}: the next packet has the number after it\n")
        })
    }

    /// Notes what is about to be done.
    pub(crate) fn begin(&mut self, plan: &Plan) {
        self.profile = plan.profile.as_ref().map(ToString::to_string);
        self.server = Some(plan.server.to_string());
        self.service = plan.ask.service.map(|name| name.to_string());
        self.action = Some(match plan.ask.action {
            Action::Open => "open",
            Action::Close => "close",
        });
        self.open_for = match plan.ask.open_for {
            OpenFor::Default => None,
            OpenFor::Seconds(seconds) => Some(seconds.get()),
        };
    }

    /// Notes an address of the server that there is no way to.
    pub(crate) fn unreachable(&mut self, unreachable: &Unreachable) {
        self.failed
            .push(Failed { to: unreachable.to.to_string(), error: unreachable.error.to_string() });
    }

    /// Notes what went to one address of the server, and what did not.
    pub(crate) fn sent(&mut self, outcome: &Outcome) {
        let to = outcome.route.to.to_string();
        if let Some(error) = &outcome.error {
            self.failed.push(Failed { to: to.clone(), error: error.to_string() });
        }
        if let Some(last) = outcome.packets.last() {
            self.sent.push(Sent {
                to,
                address: shown_address(last.request.address),
                timestamp: last.request.timestamp.as_millis(),
                packets: outcome.packets.len(),
            });
        }
    }

    /// Notes what would have gone out.
    pub(crate) fn rehearsed(&mut self, rehearsed: &[Rehearsed]) {
        self.dry_run = true;
        self.unsent = rehearsed.iter().map(Unsent::of).collect();
    }

    /// Notes that the port accepted.
    pub(crate) fn open(&mut self, accepted: Accepted, port: ServicePort) {
        self.open = Some(Open {
            to: accepted.by.to_string(),
            port: port.to_string(),
            after_ms: u64::try_from(accepted.after.as_millis()).unwrap_or(u64::MAX),
            proven: accepted.proof == Proof::Yes,
        });
    }

    /// Notes what `--check` found of a leg.
    pub(crate) fn checked(&mut self, leg: Leg) {
        self.legs.push(leg);
    }

    /// Notes something that is wrong and doesn't end the run.
    pub(crate) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Notes how the run failed.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.error = Some(error.to_string());
        self.exit_code = error.code().number();
    }

    /// One line for each address of the server.
    pub(crate) fn sent_as_text(&self) -> String {
        let mut text = String::new();
        let action = self.action.unwrap_or_default();
        let service = self.service.as_deref().unwrap_or("every service");
        for Sent { to, address, packets, .. } in &self.sent {
            let whom =
                if address == OBSERVED { "the address that the server sees" } else { address };
            let times = if *packets == 1 { String::new() } else { format!(", {packets} times") };
            line(&mut text, format_args!("sent to {to}: {action} {service} for {whom}{times}"));
        }
        for Failed { to, error } in &self.failed {
            line(&mut text, format_args!("not sent to {to}: {error}"));
        }
        text
    }

    /// What `--dry-run` shows.
    pub(crate) fn unsent_as_text(&self) -> String {
        let mut text = String::new();
        let default = || "the server's default".to_owned();
        let open_for = self.open_for.map_or_else(default, |seconds| format!("{seconds}s"));
        let service = self.service.as_deref().unwrap_or("every service");
        let action = self.action.unwrap_or_default();
        for packet in &self.unsent {
            let Unsent { to, address, timestamp, day, tag, datagram } = packet;
            line(&mut text, format_args!("not sent to {to}, since this is a dry run:"));
            line(&mut text, format_args!("  tag        {tag} of day {day}"));
            line(&mut text, format_args!("  timestamp  {timestamp}"));
            line(&mut text, format_args!("  address    {address}"));
            line(&mut text, format_args!("  open-for   {open_for}"));
            line(&mut text, format_args!("  action     {action}"));
            line(&mut text, format_args!("  service    {service}"));
            line(&mut text, format_args!("  datagram   {datagram}"));
        }
        text
    }

    /// That the port is open.
    pub(crate) fn open_as_text(&self) -> String {
        match &self.open {
            None => String::new(),
            Some(Open { to, port, after_ms, proven: true }) => {
                format!("{port} open at {to} after {after_ms} ms\n")
            }
            Some(Open { to, port, .. }) => format!("{port} accepts at {to}, {NO_PROOF}\n"),
        }
    }

    /// The one JSON object.
    pub(crate) fn to_json(&self) -> Result<String, Error> {
        let mut text = serde_json::to_string(self).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(text)
    }
}

impl Answer {
    fn of(Replied { by, reply, after, clock_offset_ms }: &Replied) -> Self {
        let clock = reply.clock.as_millis();
        let until = match reply.door {
            DoorState::OpenUntil(until) => Some(until.as_millis()),
            DoorState::Closed => None,
        };
        Self {
            from: by.to_string(),
            open: until.is_some(),
            open_until: until,
            open_for_ms: until.map(|until| until.saturating_sub(clock)),
            address: reply.seen.to_string(),
            clock,
            clock_offset_ms: *clock_offset_ms,
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Milliseconds as signed seconds: `+12.500`, `-0.120`.
fn seconds(millis: i64) -> String {
    let (sign, size) = (if millis < 0 { '-' } else { '+' }, millis.unsigned_abs());
    format!("{sign}{}.{:03}", size / 1000, size % 1000)
}

impl Unsent {
    fn of(Rehearsed { to, packet }: &Rehearsed) -> Self {
        let tag = packet.datagram.first_chunk::<{ common::TAG_LEN }>();
        Self {
            to: to.clone(),
            address: shown_address(packet.request.address),
            timestamp: packet.request.timestamp.as_millis(),
            day: packet.day.number(),
            tag: tag.map_or_else(String::new, |tag| HEXLOWER.encode(tag)),
            datagram: HEXLOWER.encode(&packet.datagram),
        }
    }
}

const OBSERVED: &str = "observed";

fn shown_address(address: ClientAddress) -> String {
    match address {
        ClientAddress::Observed => OBSERVED.to_owned(),
        ClientAddress::Literal(address) => address.to_string(),
    }
}

/// Writing to a string can't fail.
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{arguments}");
}
