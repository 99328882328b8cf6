//! Lengths of time as they are written everywhere in this project: "1500ms", "90s", "30m", "6h", "1d".

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

/// A length of time above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

/// Something else than a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is a whole number above 0 with its unit, such as 500ms, 90s, 30m, 6h or 1d")]
pub struct InvalidSpan;

/// Milliseconds in each unit, the longest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// The same as the standard library has it.
    pub const fn as_duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let end = text.find(|c: char| !c.is_ascii_digit()).ok_or(InvalidSpan)?;
        let (number, unit) = text.split_at(end);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(InvalidSpan)?;
        let number: u64 = number.parse().map_err(|_| InvalidSpan)?;
        match number.checked_mul(*millis) {
            None | Some(0) => Err(InvalidSpan),
            Some(total) => Ok(Self(Duration::from_millis(total))),
        }
    }
}

/// In the longest unit that leaves no rest, so that it reads back as the same span.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_millis();
        for (unit, millis) in UNITS {
            if total.is_multiple_of(u128::from(millis)) {
                return write!(f, "{}{unit}", total / u128::from(millis));
            }
        }
        Ok(())
    }
}

/// How long the door is asked to stay open: whole seconds, as the wire format has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(NonZeroU32);

/// Something else than a number of whole seconds that the wire format has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("open-for is a time of whole seconds, such as 90s, 30m or 6h")]
pub struct InvalidSeconds;

impl Seconds {
    /// What `--keep` asks for where neither the command line nor the profile says it, 5 minutes: short enough
    /// that a device that is gone is soon locked out, long enough that a thousand devices are no load.
    pub const KEEP: Self = match NonZeroU32::new(300) {
        Some(seconds) => Self(seconds),
        None => Self(NonZeroU32::MIN),
    };

    /// The number of seconds.
    pub const fn number(self) -> NonZeroU32 {
        self.0
    }
}

impl FromStr for Seconds {
    type Err = InvalidSeconds;

    fn from_str(text: &str) -> Result<Self, InvalidSeconds> {
        let span = text.parse::<Span>().map_err(|_| InvalidSeconds)?.as_duration();
        if span.subsec_millis() != 0 {
            return Err(InvalidSeconds);
        }
        let seconds = u32::try_from(span.as_secs()).map_err(|_| InvalidSeconds)?;
        NonZeroU32::new(seconds).map(Self).ok_or(InvalidSeconds)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(Duration::from_secs(self.0.get().into())).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("1ms", 1),
            ("1500ms", 1_500),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("6h", 21_600_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn a_span_without_a_unit_or_of_no_time_is_refused() {
        for bad in [
            "",
            "10",
            "s",
            "0s",
            "00ms",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            " 1s",
            "1s ",
            "1S",
            "1w",
            "1m30s",
            "18446744073709551616ms",
            "999999999999999999d",
        ] {
            assert_eq!(bad.parse::<Span>(), Err(InvalidSpan), "{bad:?}");
        }
    }

    #[test]
    fn a_span_is_written_so_that_it_reads_back_as_the_same() {
        for (text, shown) in
            [("1500ms", "1500ms"), ("90s", "90s"), ("3600s", "1h"), ("48h", "2d"), ("2000ms", "2s")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), shown);
            assert_eq!(shown.parse(), Ok(span));
        }
    }

    #[test]
    fn open_for_takes_whole_seconds_that_fit_the_wire() {
        assert_eq!("6h".parse::<Seconds>().unwrap().number().get(), 21_600);
        assert_eq!("2000ms".parse::<Seconds>().unwrap().number().get(), 2);
        assert_eq!("4294967295s".parse::<Seconds>().unwrap().number().get(), u32::MAX);
        for bad in ["0s", "500ms", "1500ms", "4294967296s", "50000d", "30"] {
            assert_eq!(bad.parse::<Seconds>(), Err(InvalidSeconds), "{bad}");
        }
    }
}
