//! Points in time for people: RFC 3339 in UTC.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use common::Timestamp;
use jiff::{civil::Date, tz::TimeZone};

use super::{Exit, Failure};

/// A point in time from 1970 on, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

/// A text that is no point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written 2027-12-31T00:00:00Z, or 2027-12-31 for the start of that day in UTC")]
pub struct InvalidMoment;

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        moment.0
    }
}

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, InvalidMoment> {
        let time = match text.parse::<jiff::Timestamp>() {
            Ok(time) => time,
            Err(_) => {
                // Ten characters, as YYYY-MM-DD: jiff reads other forms of a date as well.
                let date: Date =
                    (text.len() == 10).then(|| text.parse().ok()).flatten().ok_or(InvalidMoment)?;
                date.to_zoned(TimeZone::UTC).map_err(|_| InvalidMoment)?.timestamp()
            }
        };
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| InvalidMoment)?;
        Ok(Self(Timestamp::from_millis(millis)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let time =
            i64::try_from(millis).ok().and_then(|it| jiff::Timestamp::from_millisecond(it).ok());
        match time {
            Some(time) => time.fmt(f),
            // Beyond the year 9999.
            None => write!(f, "{millis} ms after 1970"),
        }
    }
}

/// This moment, by the clock of this host.
///
/// # Errors
/// [`Exit::OsErr`] if the clock says that it is before 1970.
pub(crate) fn now() -> Result<Moment, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| {
        Failure::new(Exit::OsErr, "this host's clock says that it is before 1970: set it")
    })?;
    Ok(Moment(Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_with_an_offset_or_the_start_of_a_day_in_utc() {
        for (text, shown) in [
            ("2027-12-31T00:00:00Z", "2027-12-31T00:00:00Z"),
            ("2027-12-31T01:30:00+01:30", "2027-12-31T00:00:00Z"),
            ("2027-12-31", "2027-12-31T00:00:00Z"),
            ("1970-01-01", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(text.parse::<Moment>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "2027", "2027-13-01", "2027-12-31T00:00:00", "1969-12-31", "tomorrow"] {
            assert_eq!(text.parse::<Moment>(), Err(InvalidMoment), "{text}");
        }
    }
}
