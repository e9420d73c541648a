//! Amounts of bytes and of time as people write them.

use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// `ms` before `s` and `m`: the first suffix that matches wins.
const TIME_UNITS_MS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// `512MiB`, `2 GB`, or a plain number of bytes.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &BYTE_UNITS, Some(1))
        .ok_or_else(|| "expected bytes, such as 1048576, 512MiB or 2GB".to_owned())
}

/// `500ms`, `15s`, `5m`, `2h` or `30d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &TIME_UNITS_MS, None)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time, such as 500ms, 15s, 5m, 2h or 30d".to_owned())
}

/// A duration in the largest unit that divides it.
pub(super) fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis() as u64;
    let fits = |(_, unit): &&(&str, u64)| ms.is_multiple_of(*unit);
    let (suffix, unit) = TIME_UNITS_MS
        .iter()
        .rev()
        .find(fits)
        .unwrap_or(&TIME_UNITS_MS[0]);
    if ms == 0 {
        "0ms".to_owned()
    } else {
        format!("{}{suffix}", ms / unit)
    }
}

fn parse(text: &str, units: &[(&str, u64)], without_unit: Option<u64>) -> Option<u64> {
    let with_unit = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
    let (number, unit) = match with_unit {
        Some(found) => found,
        None => (text, without_unit?),
    };
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_with_and_without_units() {
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert_eq!(parse_bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("3GiB"), Ok(3 << 30));
        for wrong in ["", "-1", "1.5GB", "GB", "12 parsecs", "99999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(parse_duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert!(parse_duration("15").is_err());
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(ms in 0_u64..1 << 50) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
