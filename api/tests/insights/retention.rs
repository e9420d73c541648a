//! How long what is kept is kept (telemetry.md §9).

use crate::world::World;

const MONTH: u64 = 30;

/// For how many days at least a table keeps its rows; none: for ever.
const KEPT: [(&str, Option<u64>); 18] = [
    ("health_events", Some(30)),
    ("event_hours", Some(30)),
    ("device_hours", Some(8)),
    ("hourly", Some(13 * MONTH)),
    ("daily", Some(25 * MONTH)),
    ("daily_flags", Some(13 * MONTH)),
    // 90 days, and the 90 before them.
    ("daily_maps", Some(13 * MONTH)),
    // Two weeks: 168 hours, and as many before them.
    ("hourly_flags", Some(15)),
    // A day by update, the one before it, and the hours of days that are not folded.
    ("hourly_maps", Some(3)),
    ("folds", Some(25 * MONTH)),
    ("perf_hours", Some(30)),
    ("custom_hours", Some(13 * MONTH)),
    ("evaluation_hours", Some(25 * MONTH)),
    ("download_hours", Some(13 * MONTH)),
    ("device_updates", None),
    ("client_devices", None),
    ("flag_maps", None),
    ("watermarks", None),
];

/// The days in `… + toIntervalDay(8)`.
fn days(definition: &str) -> Option<u64> {
    let (_, ttl) = definition.split_once(" TTL ")?;
    let number = |unit: &str| {
        let (_, rest) = ttl.split_once(&format!("toInterval{unit}("))?;
        rest.split(')').next()?.parse::<u64>().ok()
    };
    number("Day").or_else(|| Some(number("Month")? * MONTH))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_before_its_time() {
    let world = World::start().await;
    for (table, least) in KEPT {
        let definition = world.definition(table).await;
        let found = days(&definition);
        match least {
            Some(least) => assert!(found >= Some(least), "{table}: {found:?}"),
            None => assert_eq!(found, None, "{table}"),
        }
    }
}
