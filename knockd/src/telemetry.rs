//! What happened, told: one event for each decision that matters, with the same fields everywhere.
//!
//! Every event has the field `event`, a name of its kind that never changes; `config/EVENTS.md` lists them all, with
//! the fields of each.
//!
//! Under systemd the events go to the journal, each field prefixed with `KNOCKD_` and in capitals; elsewhere
//! to stderr. `KNOCKD_LOG` (error, warn, info, debug) says how much is told; info unless given.
//!
//! # Security considerations
//! - Telling waits for nobody: an event is put into a bounded `queue`, from which a thread of its own (`teller`) tells
//!   it. What doesn't fit is counted, and told later. A journald that is stuck, stopped or not there stops nothing,
//!   and no start.
//! - What strangers send is told at debug only, so that nobody without a key can fill a disk with lines.
//! - What becomes of a client's packets is told within a `budget` for each client and reason: the first at once, then
//!   one line a minute. `copies` of a packet that was told of have no line each, whoever sends them how fast. What
//!   is held back is counted, and told with the client's name.
//! - All other events are bounded for each place in the code that tells them (`repeats`).
//! - At debug, everything is told, one by one.
//! - No field holds a byte of a datagram, and no name that isn't in the configuration.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    panic,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use common::Timestamp;
use tracing::{Level, error, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    admission::Outcome,
    gate::{
        clock::{Now, Uptime},
        decision::Refusal,
        directory::Directory,
    },
};

mod budget;
pub mod catalogue;
mod copies;
mod errors;
mod journal;
mod line;
mod lines;
mod queue;
mod repeats;
mod teller;

pub use errors::{LastError, errors};

use budget::{Budgets, Held, PERIOD};
use copies::Copies;
use errors::ErrorKeeper;
use line::Line;
use queue::Queue;
use repeats::Bounded;
use teller::Taker;

/// What this process has to tell.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How long an end waits until what is left is told.
const AT_THE_END: Duration = Duration::from_secs(2);

/// Tells events to the journal when systemd runs this process, and on stderr otherwise, from here on. Neither needs
/// anybody who takes them.
///
/// # Errors
/// A value of `KNOCKD_LOG` that is no level, or no thread or descriptor is left.
pub fn start() -> io::Result<()> {
    let level = match std::env::var("KNOCKD_LOG") {
        Ok(level) => level.parse::<Level>().map_err(|_| {
            io::Error::other(format!("KNOCKD_LOG={level}: write error, warn, info or debug"))
        })?,
        Err(_) => Level::INFO,
    };
    let queue = Arc::clone(QUEUE.get_or_init(Arc::default));
    let registry = tracing_subscriber::registry();
    let taker = if stderr_is_the_journal() {
        let journal = Bounded::new(journal::Journal(Arc::clone(&queue)), level)
            .with_filter(LevelFilter::from_level(level));
        registry.with(journal).with(ErrorKeeper.with_filter(LevelFilter::ERROR)).init();
        Taker::journal()?
    } else {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(lines::Lines(Arc::clone(&queue)))
            .with_ansi(false)
            .with_target(false);
        let lines = Bounded::new(lines, level).with_filter(LevelFilter::from_level(level));
        registry.with(lines).with(ErrorKeeper.with_filter(LevelFilter::ERROR)).init();
        Taker::stderr()?
    };
    teller::start(&queue, taker)?;
    tell_of_panics();
    Ok(())
}

/// Waits until everything is told, for two seconds at most: before this process ends.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.wait_until_empty(AT_THE_END);
    }
}

/// Says on stderr why the daemon can't go on, and waits two seconds at most for whoever reads that.
pub fn last_words(line: String) {
    let (said, waits) = mpsc::channel();
    let says = thread::Builder::new().spawn(move || {
        let _ = writeln!(io::stderr(), "{line}");
        let _ = said.send(());
    });
    if says.is_ok() {
        let _ = waits.recv_timeout(AT_THE_END);
    }
}

/// How many events were not told in this process, because whoever takes them did not.
#[must_use]
pub fn untold() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.untold())
}

/// Has a panic told like everything else before it ends this process.
fn tell_of_panics() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Who tells can't tell of himself.
        if thread::current().name() == Some(teller::NAME) {
            return otherwise(panic);
        }
        error!(event = "panicked", "a mistake in this program: {panic}");
        finish();
    }));
}

/// Whether stderr is connected to the journal: systemd.exec(5), `$JOURNAL_STREAM`.
#[must_use]
pub fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Lines at once that tell what was held back: of warnings first.
const SUMMARIES: usize = 200;

/// Tells what becomes of datagrams, within bounds.
pub struct Telemetry {
    /// Whether everything is told, as at debug.
    everything: bool,
    budgets: Budgets<Named>,
    copies: Copies,
    /// Since when something is held back of what is told from elsewhere.
    repeats_since: Option<Uptime>,
}

/// A line that was held back, with its client's name as it was then.
struct Named {
    line: Line,
    name: Box<str>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            everything: LevelFilter::current() >= LevelFilter::DEBUG,
            budgets: Budgets::default(),
            copies: Copies::default(),
            repeats_since: None,
        }
    }
}

impl Telemetry {
    /// Tells how a datagram was dealt with.
    pub fn report(&mut self, outcome: &Outcome, source: IpAddr, directory: &Directory, now: Now) {
        let (line, beside) = Line::of(outcome, source);
        let is_copy = match outcome {
            Outcome::Refused {
                refusal: Refusal { client: Some(_), reason },
                packet: Some(mac),
            } => !self.everything && !self.copies.is_first(*mac, reason),
            _ => false,
        };
        self.tell(if is_copy { Line::copies(source) } else { line }, directory, now);
        if let Some(beside) = beside {
            self.tell(beside, directory, now);
        }
    }

    fn tell(&mut self, line: Line, directory: &Directory, now: Now) {
        let name = line.subject().client.map_or("", |client| directory.name(client));
        if self.everything || line.level() > Level::INFO {
            return line.tell(name, directory, None, now);
        }
        let (subject, uptime) = (line.subject(), now.uptime);
        if self.budgets.spend(subject, line.quota(), uptime) {
            line.tell(name, directory, None, now);
        } else {
            let name = name.into();
            self.budgets.hold(subject, Named { line, name }, uptime);
        }
    }

    /// How long until [`Self::sum_up`] is due; `None` if nothing is held back.
    pub fn sums_up_in(&mut self, now: Uptime) -> Option<Duration> {
        let repeats = repeats::hold_back().then(|| *self.repeats_since.get_or_insert(now) + PERIOD);
        let due = self.budgets.due().into_iter().chain(repeats).min();
        due.map(|due| due.since(now))
    }

    /// Tells what was held back and whose minute is over.
    pub fn sum_up(&mut self, directory: &Directory, now: Now) {
        self.sum_up_at(now.uptime, directory, now);
    }

    /// Tells all that was held back: before the end.
    pub fn conclude(&mut self, directory: &Directory, now: Now) {
        self.sum_up_at(now.uptime + PERIOD, directory, now);
    }

    fn sum_up_at(&mut self, uptime: Uptime, directory: &Directory, now: Now) {
        let (held, beyond) = self.budgets.take_due(uptime);
        let mut held: Vec<Held<Named>> = held.into_iter().map(|(_, held)| held).collect();
        held.sort_by_key(|held| (held.last.line.level(), u64::MAX - held.times));
        let rest = held.split_off(held.len().min(SUMMARIES));
        for Held { times, last } in held {
            last.line.tell(&last.name, directory, Some(times), now);
        }
        let more = beyond + rest.iter().map(|held| held.times).sum::<u64>();
        if more > 0 {
            warn!(
                events = more,
                event = "summed-up",
                "{more} more of what is told of clients and sources, of too many to name"
            );
        }
        if self.repeats_since.is_some_and(|since| since + PERIOD <= uptime) {
            self.repeats_since = None;
            for (of, events) in repeats::take() {
                warn!(of, events, event = "summed-up", "{of}: {events} more");
            }
        }
    }
}

/// Milliseconds as signed seconds: `+12.500`, `-0.120`.
#[must_use]
pub fn seconds(millis: i64) -> String {
    let (sign, size) = (if millis < 0 { '-' } else { '+' }, millis.unsigned_abs());
    format!("{sign}{}.{:03}", size / 1000, size % 1000)
}

/// A timestamp as people and tools read it, in UTC to the second; in milliseconds if it is beyond what a
/// calendar holds.
#[must_use]
pub fn rfc3339(timestamp: Timestamp) -> String {
    i64::try_from(timestamp.as_millis() / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{} ms", timestamp.as_millis()), |time| time.to_string())
}
