//! Days of the calendar, as seconds since 1970 and as text.

const DAY: i64 = 86_400;

/// The first second of a day (UTC) of the Gregorian calendar. A day beyond the end of its month is that of the next.
pub fn seconds_of(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March, so that leap days come last (H. Hinnant's days_from_civil).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, in_era) = (year.div_euclid(400), year.rem_euclid(400));
    let days = era * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468;
    days * DAY
}

/// The day (UTC) of a Unix time in seconds, as `2025-07-30`.
pub fn date_of(seconds: i64) -> String {
    // The way back (civil_from_days).
    let days = seconds.div_euclid(DAY) + 719_468;
    let (era, in_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let of_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!("{:04}-{month:02}-{day:02}", year + 400 * era)
}

/// The first second (UTC) of a date of release: `2025`, `2025-07`, `2025-07-30`, or these with a time, which is dropped.
pub fn parse_date(text: &str) -> Option<i64> {
    let date = text.trim().split(['T', ' ']).next()?;
    let mut parts = date.split('-').map(|part| {
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        if is_number { part.parse::<i64>().ok() } else { None }
    });
    let year = parts.next()??;
    let month = parts.next().unwrap_or(Some(1))?;
    let day = parts.next().unwrap_or(Some(1))?;
    let fits = date.len() >= 4 && year <= 9999 && (1..=12).contains(&month) && (1..=31).contains(&day);
    (fits && parts.next().is_none()).then(|| seconds_of(year, month, day))
}

#[test]
fn dates_come_back_and_nonsense_does_not() {
    for (text, seconds) in [("1970-01-01", 0), ("2000-02-29", 951_782_400), ("2025-07-30", 1_753_833_600)] {
        assert_eq!(parse_date(text), Some(seconds));
        assert_eq!(date_of(seconds), text);
        assert_eq!(date_of(seconds + DAY - 1), text);
    }
    for day in (-800_000..800_000).step_by(37) {
        let text = date_of(day * DAY);
        assert!(text.len() != 10 || text.starts_with('-') || parse_date(&text) == Some(day * DAY), "{text}");
    }
    assert_eq!(parse_date(" 1962 "), Some(seconds_of(1962, 1, 1)));
    assert_eq!(parse_date("2025-07"), parse_date("2025-07-01T12:00:00Z"));
    for wrong in
        ["", "soon", "25", "2025-13", "2025-00-01", "2025-01-32", "2025-01-01-01", "2025/01/01", "+202-01", "-"]
    {
        assert_eq!(parse_date(wrong), None, "{wrong}");
    }
}
