//! Days of the calendar, for whoever writes a time as text, and the time that it is, as HTTP writes it.

use http::HeaderValue;
use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The day of the Gregorian calendar so many days after the first of 1970, as year, month and day. The year is taken to begin in March, so that the day that some years
/// have more is its last.
pub(crate) fn date(days: u64) -> (u64, u64, u64) {
    // Days since the first of March of the year 0; 400 years have 146,097.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// The time that it is, as `Date` says it (RFC 9110, section 5.6.7). It is written once a second by each thread; `now` is a reading of the clock, which says whether that was done already.
pub(crate) fn http_date(now: Instant) -> HeaderValue {
    with_date(now, HeaderValue::clone)
}

/// Writes the field `Date`, as HTTP/1.1 does.
pub(crate) fn write_date(now: Instant, out: &mut Vec<u8>) {
    with_date(now, |date| {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}

/// A second, and how it is written.
struct Second {
    began: Instant,
    ends: Instant,
    text: HeaderValue,
}

thread_local! {
    static SECOND: RefCell<Option<Second>> = const { RefCell::new(None) };
}

fn with_date<T>(now: Instant, then: impl FnOnce(&HeaderValue) -> T) -> T {
    SECOND.with_borrow_mut(|second| {
        let second = match second {
            Some(second) if second.began <= now && now < second.ends => second,
            old => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let ends = now + (Duration::from_secs(1) - Duration::from_nanos(time.subsec_nanos().into()));
                old.insert(Second { began: now, ends, text: date_text(time.as_secs()) })
            }
        };
        then(&second.text)
    })
}

/// So many seconds after the beginning of 1970.
fn date_text(seconds: u64) -> HeaderValue {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let name = |names: &[&'static str], at: u64| usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or_default();
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month - 1));
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let text = format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_as_http_does() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(date_text(seconds), text);
        }
    }

    #[test]
    fn the_text_is_that_of_the_second() {
        let now = Instant::now();
        let first = http_date(now);
        let mut out = Vec::new();
        write_date(now, &mut out);
        assert_eq!(out, [b"Date: ", first.as_bytes(), b"\r\n"].concat());
        // Whatever the clock says in between: it is asked again.
        SECOND.with_borrow_mut(|second| second.as_mut().unwrap().text = HeaderValue::from_static("old"));
        let ends = SECOND.with_borrow(|second| second.as_ref().unwrap().ends);
        assert!(ends - now <= Duration::from_secs(1));
        assert_eq!(http_date(ends - Duration::from_nanos(1)), "old");
        assert_ne!(http_date(ends), "old");
        assert_ne!(http_date(now), "old", "nor before it began");
    }
}
