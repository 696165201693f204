//! Times that come again and again: cron expressions read by the clock of a time zone.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use model::provisioned::Window;

/// Why a window cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowFault {
    /// Not five fields of cron, or a time that never comes.
    #[error("{cron:?} is no cron expression of five fields: {why}")]
    Cron {
        /// What was sent.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such time zone.
    #[error("{time_zone:?} is no IANA time zone such as Europe/Berlin")]
    TimeZone {
        /// What was sent.
        time_zone: String,
    },
}

/// Checks that a window can be read and comes at all after `now_ms`, milliseconds since the Unix epoch.
pub fn check(window: &Window, now_ms: u64) -> Result<(), WindowFault> {
    let fault = |why: String| WindowFault::Cron { cron: window.cron.clone(), why };
    let cron = parse(&window.cron).map_err(fault)?;
    let now = local(window, now_ms).ok_or_else(|| WindowFault::TimeZone { time_zone: window.time_zone.clone() })?;
    cron.find_next_occurrence(&now, false).map(|_| ()).map_err(|error| fault(error.to_string()))
}

/// Is the window open now? It opens at each of its times and stays so for its duration. One that cannot be read never is.
pub fn is_open(window: &Window, now_ms: u64) -> bool {
    let (Ok(cron), Some(now)) = (parse(&window.cron), local(window, now_ms)) else { return false };
    let duration = SignedDuration::from_secs(i64::from(window.duration_s));
    // What began exactly one duration ago is just over.
    let Ok(earliest) = now.checked_sub(duration) else { return false };
    cron.find_next_occurrence(&earliest, false).is_ok_and(|opened| opened <= now)
}

fn parse(cron: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(cron).map_err(|error| error.to_string())
}

fn local(window: &Window, now_ms: u64) -> Option<Zoned> {
    let zone = TimeZone::get(&window.time_zone).ok()?;
    Some(Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?.to_zoned(zone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, time_zone: &str, duration_s: u32) -> Window {
        Window { cron: cron.to_owned(), time_zone: time_zone.to_owned(), duration_s, count: 1 }
    }

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    #[test]
    fn open_and_closed() {
        let check =
            |window: &Window, at: &str, want: bool| assert_eq!(is_open(window, ms(at)), want, "{window:?} {at}");
        let day = window("0 8 * * MON-FRI", "Europe/Berlin", 36_000);
        // A Friday in winter: Berlin is an hour ahead of UTC.
        check(&day, "2026-11-27T06:59:59Z", false);
        check(&day, "2026-11-27T07:00:00Z", true);
        check(&day, "2026-11-27T16:59:59Z", true);
        check(&day, "2026-11-27T17:00:00Z", false);
        check(&day, "2026-11-28T09:00:00Z", false);
        // In summer it is two.
        check(&day, "2026-07-03T06:00:00Z", true);
        check(&day, "2026-07-03T05:59:59Z", false);
        // Over midnight, and longer than its own period.
        check(&window("0 23 * * *", "UTC", 7_200), "2026-11-28T00:59:59Z", true);
        check(&window("0 23 * * *", "UTC", 7_200), "2026-11-28T01:00:00Z", false);
        check(&window("* * * * *", "UTC", 3_600), "2026-11-28T12:34:56Z", true);
        // The clock jumps over half past two: it opens when the jump is over.
        let jumped = window("30 2 * * *", "Europe/Berlin", 600);
        check(&jumped, "2026-03-29T00:59:59Z", false);
        check(&jumped, "2026-03-29T01:05:00Z", true);
        check(&jumped, "2026-03-29T01:30:00Z", false);
    }

    #[test]
    fn faults() {
        let text = |cron: &str, time_zone: &str| match check(&window(cron, time_zone, 60), ms("2026-11-28T12:00:00Z")) {
            Ok(()) => "fine".to_owned(),
            Err(WindowFault::Cron { .. }) => "cron".to_owned(),
            Err(WindowFault::TimeZone { .. }) => "zone".to_owned(),
        };
        for (cron, time_zone, want) in [
            ("0 8 * * MON-FRI", "UTC", "fine"),
            ("*/5 * * * *", "America/New_York", "fine"),
            ("0 0 29 2 *", "UTC", "fine"),
            ("0 0 30 2 *", "UTC", "cron"),
            ("", "UTC", "cron"),
            ("61 * * * *", "UTC", "cron"),
            ("0 0 8 * * *", "UTC", "cron"),
            ("0 8 * * *", "Mars/Olympus", "zone"),
            ("0 8 * * *", "", "zone"),
        ] {
            assert_eq!(text(cron, time_zone), want, "{cron:?} {time_zone:?}");
            assert!(want == "fine" || !is_open(&window(cron, time_zone, 60), ms("2026-11-28T12:00:00Z")));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(cron in ".{0,30}", fields in "[0-9*,/L#W-]{1,4}( [0-9*,/L#W-]{1,4}){4}", zone in ".{0,12}", at in proptest::prelude::any::<u64>()) {
            for cron in [&cron, &fields] {
                let window = Window { cron: cron.clone(), time_zone: zone.clone(), duration_s: 60, count: 1 };
                let _ = (check(&window, at), is_open(&window, at));
                let window = Window { time_zone: "Europe/Berlin".to_owned(), ..window };
                let _ = (check(&window, at), is_open(&window, at));
            }
        }
    }
}
