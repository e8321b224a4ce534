//! Values as people write them: times like `10s`, lengths like `64MiB`, switches like `1`.
//!
//! One reader for each serves variables, configuration files and the programs' options.

use std::time::Duration;

/// Units of time, in nanoseconds.
const TIMES: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("min", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];

/// Units of length, in bytes.
const LENGTHS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("k", 1 << 10),
    ("KiB", 1 << 10),
    ("m", 1 << 20),
    ("MiB", 1 << 20),
    ("g", 1 << 30),
    ("GiB", 1 << 30),
];

fn split(text: &str) -> (&str, &str) {
    let text = text.trim_ascii();
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    (number.trim_ascii_end(), &text[number.len()..])
}

/// Reads a time like `10s`, `1.5s`, `500ms`, `50us` or `2m`; a number alone is one of seconds.
///
/// # Errors
/// What is wrong, with the units that there are.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let no_time = || format!("{text:?} is not a time like 10s or 500ms");
    if number.is_empty() {
        return Err(no_time());
    }
    let unit = if unit.is_empty() { "s" } else { unit };
    let Some((_, nanos)) = TIMES.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("unknown unit {unit:?}; use us, ms, s, m or h"));
    };
    // Whole numbers are exact.
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*nanos).map(Duration::from_nanos).ok_or_else(|| format!("{text:?} is too long"));
    }
    let value: f64 = number.parse().map_err(|_| no_time())?;
    #[expect(clippy::cast_precision_loss, reason = "units are far below 2^53")]
    seconds(value * *nanos as f64 / 1e9)
}

/// A number of seconds as a time.
///
/// # Errors
/// If it is negative, not a number, or too large.
pub fn seconds(value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|error| format!("{value} s: {error}"))
}

/// Reads a length in bytes like `64MiB`, `1KiB` or `8`.
///
/// # Errors
/// What is wrong, with the units that there are.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let no_length = || format!("{text:?} is not a length like 8 or 64MiB");
    if number.is_empty() {
        return Err(no_length());
    }
    let Some((_, factor)) = LENGTHS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("unknown unit {unit:?}; use B, KiB, MiB or GiB"));
    };
    let value: u64 = number.parse().map_err(|_| no_length())?;
    value.checked_mul(*factor).ok_or_else(|| format!("{text:?} is too long"))
}

/// Reads a switch: `1`, `true`, `yes` and `on`, or `0`, `false`, `no` and `off`.
///
/// # Errors
/// What it may be.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.trim_ascii() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => Err(format!("{other:?} is neither 1 (true, yes, on) nor 0 (false, no, off)")),
    }
}

/// Writes a length with the largest unit in which it is whole.
pub(super) fn length(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, expected) in [
            ("10s", Duration::from_secs(10)),
            ("10", Duration::from_secs(10)),
            (" 1.5 s ", Duration::from_millis(1500)),
            ("500ms", Duration::from_millis(500)),
            ("50us", Duration::from_micros(50)),
            ("50µs", Duration::from_micros(50)),
            ("0", Duration::ZERO),
            ("2m", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3600)),
            ("0.1s", Duration::from_millis(100)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "10 parsecs", "-1s", "nan", "inf", "1e400", "99999999999h", "1,5s", "10s s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_read_and_written_with_their_units() {
        for (text, expected) in
            [("8", 8), ("8B", 8), ("1KiB", 1024), ("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("2k", 2048)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
            assert_eq!(bytes(&length(expected)), Ok(expected));
        }
        assert_eq!([length(0), length(1 << 30), length(1500)], ["0", "1GiB", "1500"]);
        for text in ["", "KiB", "1.5MiB", "-1", "1KB", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches_are_words_or_digits() {
        assert_eq!(
            [switch("1"), switch("yes"), switch("0"), switch(" off ")],
            [Ok(true), Ok(true), Ok(false), Ok(false)]
        );
        assert!(switch("2").is_err() && switch("").is_err() && switch("True").is_err());
    }
}
