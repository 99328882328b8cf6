//! Durations as text: a number and a unit, as `"500ms"`, `"90s"`, `"30m"`, `"6h"`, `"2d"`.

use std::{fmt, time::Duration};

/// The units, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a duration is a whole number and one of the units ms, s, m, h and d, as \"90s\" or \"6h\""
)]
pub struct InvalidDuration;

/// The duration that a text means.
///
/// # Errors
/// [`InvalidDuration`] unless it is decimal digits and a unit right behind them, and fits into 64 bits
/// of milliseconds.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).ok_or(InvalidDuration)?;
    let (number, unit) = text.split_at_checked(end).ok_or(InvalidDuration)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(InvalidDuration)?;
    let number: u64 = number.parse().map_err(|_| InvalidDuration)?;
    number.checked_mul(*millis).map(Duration::from_millis).ok_or(InvalidDuration)
}

/// Shows a duration as it is written in the configuration, in the longest unit that it is a whole
/// number of. What is below a millisecond isn't shown.
#[derive(Clone, Copy, Debug)]
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)));
        match unit {
            Some((name, unit)) if millis > 0 => write!(f, "{}{name}", millis / u128::from(*unit)),
            _ => f.write_str("0s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("6h", 21_600_000),
            ("2d", 172_800_000),
            ("007s", 7000),
        ] {
            assert_eq!(parse(text).map(|it| it.as_millis()), Ok(millis), "{text}");
        }
    }

    #[test]
    fn a_text_of_another_form_is_no_duration() {
        for text in [
            "",
            "s",
            "30",
            "30 s",
            " 30s",
            "30s ",
            "-1s",
            "+1s",
            "1.5h",
            "1h30m",
            "30S",
            "30sec",
            "3é",
            "é",
            "18446744073709551615s",
            "99999999999999999999ms",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_as_it_was_written(millis in 0..=u64::MAX) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&Written(duration).to_string()), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
