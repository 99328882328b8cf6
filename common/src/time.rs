//! The two measures of time on the wire: a timestamp in milliseconds, and the day that its tag is for.

/// Milliseconds since 1970-01-01T00:00:00Z; for a client with `clock = "counter"`, a number that
/// rises with every packet. PROTOCOL.md, "Request".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Milliseconds in a day of UTC, which knows no leap seconds here (POSIX time).
const DAY_MS: u64 = 86_400_000;

impl Timestamp {
    /// A timestamp of this many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

/// The day that a tag is made for: floor(timestamp / 86,400,000). PROTOCOL.md, "Datagram".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// The one "day" of clients without a clock (`clock = "counter"`), which no timestamp falls on.
    pub const COUNTER: Self = Self(u32::MAX);

    /// The day that a timestamp falls on.
    ///
    /// `None` from the day 0xFFFFFFFF on (in some eleven million years), which is [`Day::COUNTER`].
    #[must_use]
    pub fn of(timestamp: Timestamp) -> Option<Self> {
        match u32::try_from(timestamp.0 / DAY_MS) {
            Ok(day) if day != Self::COUNTER.0 => Some(Self(day)),
            _ => None,
        }
    }

    /// The day's number, as the tag's input has it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The day before; `None` before the first.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// The day after; `None` after the last, since the next is [`Day::COUNTER`].
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self).filter(|day| *day < Self::COUNTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_one_millisecond_before_the_next_begins() {
        let last = Day::of(Timestamp::from_millis(DAY_MS - 1)).unwrap();
        let first = Day::of(Timestamp::from_millis(DAY_MS)).unwrap();
        assert_eq!((last.number(), first.number()), (0, 1));
        assert_eq!(last.next(), Some(first));
        assert_eq!(first.previous(), Some(last));
    }

    #[test]
    fn no_timestamp_falls_on_the_counter_day() {
        let counter_day = u64::from(u32::MAX) * DAY_MS;
        assert_eq!(Day::of(Timestamp::from_millis(counter_day)), None);
        assert_eq!(Day::of(Timestamp::from_millis(u64::MAX)), None);
        let last = Day::of(Timestamp::from_millis(counter_day - 1)).unwrap();
        assert_eq!(last.next(), None);
    }
}
