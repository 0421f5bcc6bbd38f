//! Numbers, times and protocols as people read them: in the dashboard, and in `netproxy-dp top`, which has this file too.

use std::fmt;

/// A number with its thousands apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count(pub(crate) u64);

/// Bytes, in powers of 1000.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

/// Microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Micros(pub(crate) u64);

/// Seconds that have gone by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age(pub(crate) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A number in the largest unit that is not larger than it, with three digits or so.
fn scaled(f: &mut fmt::Formatter<'_>, value: u64, units: &[(u64, &str)]) -> fmt::Result {
    let fits = units.iter().rev().find(|(size, _)| value >= *size).or(units.first());
    let Some((size, unit)) = fits else { return write!(f, "{value}") };
    let (whole, tenths) = (value / size, value % size * 10 / size);
    if whole >= 100 || *size == 1 { write!(f, "{whole} {unit}") } else { write!(f, "{whole}.{tenths} {unit}") }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, &[(1, "B"), (1_000, "kB"), (1_000_000, "MB"), (1_000_000_000, "GB"), (1_000_000_000_000, "TB")])
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, &[(1, "µs"), (1_000, "ms"), (1_000_000, "s")])
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..60 => write!(f, "{} s", self.0),
            60..3_600 => write!(f, "{} min", self.0 / 60),
            3_600..86_400 => write!(f, "{} h {} min", self.0 / 3_600, self.0 % 3_600 / 60),
            _ => write!(f, "{} d {} h", self.0 / 86_400, self.0 % 86_400 / 3_600),
        }
    }
}

/// Protocols by their names in events, as people call them.
pub(crate) const PROTOCOLS: &[(&str, &str)] =
    &[("http", "HTTP"), ("https", "HTTPS"), ("https_connect", "CONNECT"), ("socks5_tcp", "SOCKS5"), ("socks5_udp", "SOCKS5 UDP")];

/// What a table says of a name; the name itself where it says nothing.
pub(crate) fn known<'n>(table: &'static [(&'static str, &'static str)], name: &'n str) -> &'n str {
    table.iter().find(|(known, _)| *known == name).map_or(name, |(_, said)| said)
}

/// The time of day in UTC.
pub(crate) fn clock(seconds: i64) -> String {
    let of_day = seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", of_day / 3_600, of_day % 3_600 / 60, of_day % 60)
}

/// Seconds since 1970 of a time as RFC 3339 writes it, in UTC.
pub(crate) fn seconds(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    time.ends_with('Z').then_some(())?;
    // Years begin in March, so that the day that some have more is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let said = [
            Count(7).to_string(),
            Count(1_234_567).to_string(),
            Bytes(999).to_string(),
            Bytes(1_540).to_string(),
            Bytes(250_000_000).to_string(),
        ];
        assert_eq!(said, ["7", "1,234,567", "999 B", "1.5 kB", "250 MB"]);
        assert_eq!([Micros(12).to_string(), Micros(2_500).to_string(), Micros(3_000_000).to_string()], ["12 µs", "2.5 ms", "3.0 s"]);
        assert_eq!([0, 59, 60, 3_725, 90_000].map(|age| Age(age).to_string()), ["0 s", "59 s", "1 min", "1 h 2 min", "1 d 1 h"]);
    }

    #[test]
    fn times_are_read_and_written() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:34:56.789Z", Some(1_709_210_096)),
            ("2027-01-15T08:00:00.000Z", Some(1_800_000_000)),
            ("2027-01-15T08:00:00+01:00", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(clock(1_800_000_000), "08:00:00");
    }
}
