//! Days of the calendar, for whoever writes a time as text.

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
