//! Durations and sizes as people write them, both ways.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("sec", 1_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// As PostgreSQL's settings and the old tools do, every step is 1024.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("K", 1 << 10),
    ("KB", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MB", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GB", 1 << 30),
    ("GiB", 1 << 30),
    ("T", 1 << 40),
    ("TB", 1 << 40),
    ("TiB", 1 << 40),
];

/// `10ms`, `2 s`, `1h`, `0.5`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, DURATIONS, 1_000_000)
        .map(Duration::from_micros)
        .ok_or_else(|| "expected a duration such as 10ms, 2s, 5min, 1h, or a number of seconds".into())
}

/// `64MB`, `16 GiB`, `1K`; a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, SIZES, 1).ok_or_else(|| "expected a size such as 64MB, 16GiB, or a number of bytes".into())
}

/// Number and unit to the smallest unit, with the fraction rounded to it.
fn scaled(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let factor = match unit {
        "" => bare,
        unit => units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part = match fraction {
        "" => 0,
        // Nine digits are finer than any unit here.
        digits => {
            let digits: String = digits.chars().take(9).collect();
            let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
            u64::try_from(u128::from(digits.parse::<u64>().ok()?) * u128::from(factor) / scale).ok()?
        }
    };
    whole.checked_mul(factor)?.checked_add(part)
}

/// A size in the largest unit that keeps it readable: `1.4 GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Only for the eye: a float's 53 bits are more than the digits shown.
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in at most two units: `850µs`, `12ms`, `3.2s`, `4m10s`, `2h5m`, `3d4h`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_micros() < 1_000 => format!("{}µs", duration.as_micros()),
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// So many things in so long: `12,345/s`.
pub fn show_rate(count: u64, duration: Duration) -> String {
    let micros = duration.as_micros().max(1);
    let per_second = u128::from(count) * 1_000_000 / micros;
    format!("{}/s", show_count(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// A number with its thousands marked: `1,234,567`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_units_and_bare_seconds() {
        for (text, micros) in [
            ("10ms", 10_000),
            ("2s", 2_000_000),
            ("2 s", 2_000_000),
            ("1h", 3_600_000_000),
            ("5min", 300_000_000),
            ("0.5", 500_000),
            (".25", 250_000),
            ("1.", 1_000_000),
            ("1.5ms", 1_500),
            ("60", 60_000_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in [
            "",
            "ms",
            "-1",
            "1 year",
            "1e3",
            "1.2.3",
            ".",
            "99999999999999999999",
            "9999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_step_by_1024() {
        for (text, bytes) in [
            ("64MB", 64 << 20),
            ("16GiB", 16 << 30),
            ("1K", 1024),
            ("2 mb", 2 << 20),
            ("0.5G", 1 << 29),
            ("7", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "1 parsec", "-5", "99999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1 << 20), "1.0 MiB");
        assert_eq!(show_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(show_size(3 << 29), "1.5 GiB");
        assert_eq!(show_size(u64::MAX), "16.0 EiB");
        assert_eq!(show_duration(Duration::from_micros(850)), "850µs");
        assert_eq!(show_duration(Duration::from_millis(12)), "12ms");
        assert_eq!(show_duration(Duration::from_millis(3_250)), "3.2s");
        assert_eq!(show_duration(Duration::from_secs(250)), "4m10s");
        assert_eq!(show_duration(Duration::from_secs(7_500)), "2h5m");
        assert_eq!(show_duration(Duration::from_secs(273_600)), "3d4h");
        assert_eq!(show_count(1_234_567), "1,234,567");
        assert_eq!(show_count(999), "999");
        assert_eq!(show_rate(12_345, Duration::from_secs(1)), "12,345/s");
        assert_eq!(show_rate(5, Duration::ZERO), "5,000,000/s");
    }
}
