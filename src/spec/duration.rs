//! Durations as people write them: `500ms`, `2s`, `1m`, `6h`, `7d`, and sums like `1h30m`. Knows no field.

use std::time::Duration;

/// The text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no duration")]
pub struct ParseDurationError {
    text: String,
}

impl ParseDurationError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        "write a whole number and its unit, like `500ms`, `2s`, `1m`, `6h` or `7d`".to_owned()
    }
}

/// Parses a duration: whole numbers with the units `ms`, `s`, `m`, `h`, `d`, one or several in a row.
///
/// # Errors
/// Where the text is anything else, or longer than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    const LONGEST: u64 = 100 * 366 * 86_400_000;
    let fail = || ParseDurationError { text: text.to_owned() };
    let mut milliseconds = 0_u64;
    let mut rest = text;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| fail())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(fail()),
        };
        rest = &rest[letters..];
        milliseconds = number.checked_mul(unit).and_then(|more| milliseconds.checked_add(more)).ok_or_else(fail)?;
        if milliseconds > LONGEST {
            return Err(fail());
        }
        if rest.is_empty() {
            return Ok(Duration::from_millis(milliseconds));
        }
    }
}

/// A duration as it is written, in the units that it fills: `7d`, `1h30m`.
pub fn render_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("500ms", 500), ("2s", 2000), ("1m", 60_000), ("6h", 21_600_000), ("7d", 604_800_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(render_duration(Duration::from_millis(milliseconds)), text);
        }
        for text in ["", "2", "s", "2 s", "1.5s", "-1s", "1w", "99999999999999999999s", "40000d", "1s ", "2é"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
