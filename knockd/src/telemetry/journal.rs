//! Events as systemd-journald takes them: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::{
    queue::{Message, Queue},
    rfc3339,
};
use crate::clock;

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// journald knows when it gets an event. One that it gets later than this says when it happened.
pub(super) const LATE: Duration = Duration::from_secs(1);
/// Longest value in bytes; of a longer one its beginning. What has all its fields at this length is far from what
/// a datagram holds (net.core.wmem_default: 212,992).
const VALUE_MAX: usize = 8 * 1024;

/// Puts events into the queue.
pub(super) struct Journal(pub(super) Arc<Queue>);

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        self.0.put(level, Message { at: clock::now().utc, bytes: entry(event) });
    }
}

/// The message with the time at which it happened.
pub(super) fn with_time(message: &Message) -> Vec<u8> {
    let mut entry = Entry(message.bytes.clone());
    entry.put("KNOCKD_AT", format_args!("{}", rfc3339(message.at)));
    entry.0
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    // The values of syslog(3), as tracing_journald maps them.
    let priority = match *metadata.level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 5,
        _ => 6,
    };
    let mut entry = Entry(Vec::with_capacity(512));
    entry.put("PRIORITY", format_args!("{priority}"));
    entry.put("SYSLOG_IDENTIFIER", format_args!("knockd"));
    entry.put("TARGET", format_args!("{}", metadata.target()));
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        entry.put("CODE_FILE", format_args!("{file}"));
        entry.put("CODE_LINE", format_args!("{line}"));
    }
    event.record(&mut entry);
    entry.0
}

/// An entry of the journal: fields, each with its length before it, so that no value can end one.
struct Entry(Vec<u8>);

impl Entry {
    fn put(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        let length_at = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        let begin = self.0.len();
        // It says no more when it is full.
        let _ = Value { entry: &mut self.0, end: begin + VALUE_MAX }.write_fmt(value);
        let length = (self.0.len() - begin) as u64;
        let length_place = self.0.iter_mut().skip(length_at);
        length_place.zip(length.to_le_bytes()).for_each(|(place, byte)| *place = byte);
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.put("MESSAGE", format_args!("{value:?}")),
            name => {
                let name = format!("KNOCKD_{}", name.to_ascii_uppercase());
                self.put(&name, format_args!("{value:?}"));
            }
        }
    }
}

/// A value, up to its bound.
struct Value<'e> {
    entry: &'e mut Vec<u8>,
    end: usize,
}

impl fmt::Write for Value<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.end.saturating_sub(self.entry.len());
        let fits = text.floor_char_boundary(room.min(text.len()));
        self.entry.extend_from_slice(text.get(..fits).unwrap_or_default().as_bytes());
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::{super::queue::Next, *};

    /// The fields of an entry, as journald reads them.
    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let (name, rest) = (&bytes[..end], &bytes[end + 1..]);
            let (length, rest) = rest.split_first_chunk::<8>().unwrap();
            let (value, rest) =
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            assert_eq!(rest[0], b'\n');
            bytes = &rest[1..];
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(fields.insert(text(name), text(value)), None);
        }
        fields
    }

    fn told(tell: impl FnOnce()) -> Message {
        let queue = Arc::new(Queue::default());
        let journal = tracing_subscriber::registry().with(Journal(Arc::clone(&queue)));
        tracing::subscriber::with_default(journal, tell);
        match queue.next() {
            Next::Tell(message) => message,
            Next::Untold(_) => panic!("it fits"),
        }
    }

    #[test]
    fn an_event_has_its_fields_with_the_prefix_and_no_value_ends_its_field() {
        let told = told(|| {
            let client = "a\nKNOCKD_CLIENT=b";
            tracing::warn!(%client, times = 3, service = None::<u64>, event = "refused", "{client} is\nrefused");
        });
        let found = fields(&told.bytes);
        let value = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(value("MESSAGE"), Some("a\nKNOCKD_CLIENT=b is\nrefused"));
        assert_eq!(value("KNOCKD_CLIENT"), Some("a\nKNOCKD_CLIENT=b"));
        assert_eq!((value("KNOCKD_TIMES"), value("KNOCKD_SERVICE")), (Some("3"), None));
        assert_eq!((value("KNOCKD_EVENT"), value("PRIORITY")), (Some("refused"), Some("4")));
        assert_eq!(value("SYSLOG_IDENTIFIER"), Some("knockd"));
    }

    #[test]
    fn a_value_is_as_long_as_fits_and_what_is_told_late_says_when_it_happened() {
        let told = told(|| tracing::info!("{}", "ü".repeat(VALUE_MAX)));
        let found = fields(&told.bytes);
        assert_eq!(found.get("MESSAGE").unwrap(), &"ü".repeat(VALUE_MAX / 2));
        assert!(!found.contains_key("KNOCKD_AT"));
        let found = fields(&with_time(&told));
        assert_eq!(found.get("KNOCKD_AT").unwrap(), &rfc3339(told.at));
    }
}
