use super::*;

const MS: Duration = Duration::from_millis(1);

/// CPU time that a driver gets which asks again at once, and costs `each` whenever it asks.
fn worked_in_100_s(each: Duration) -> Duration {
    let mut pace = Pace::new();
    let (start, mut now, mut worked) = (pace.since, pace.since, Duration::ZERO);
    while now - start < Duration::from_secs(100) {
        worked += each;
        now += each;
        now += pace.pause_after(each, now);
    }
    worked
}

#[test]
fn a_burst_is_served_without_a_pause() {
    let mut pace = Pace::new();
    let start = pace.since;
    for _ in 0..100 {
        assert_eq!(pace.pause_after(BURST / 100, start), Duration::ZERO);
    }
    assert_ne!(pace.pause_after(MS, start), Duration::ZERO);
}

#[test]
fn who_asks_without_end_gets_its_part_of_a_cpu() {
    let worked = worked_in_100_s(10 * MS);
    let fair = Duration::from_secs(100) / PARTS + BURST;
    assert!(
        worked <= fair + Duration::from_secs(1) && worked >= fair - Duration::from_secs(2),
        "{worked:?} of 100 s"
    );
}

#[test]
fn a_pause_is_bounded_and_what_was_too_much_is_paid_by_the_next_ones() {
    let mut pace = Pace::new();
    let start = pace.since;
    assert_eq!(pace.pause_after(BURST * 3, start), LONGEST_PAUSE);
    let later = start + BURST * PARTS;
    assert_eq!(pace.pause_after(MS, later), LONGEST_PAUSE);
    let much_later = later + BURST * PARTS * 2;
    assert_eq!(pace.pause_after(MS, much_later), Duration::ZERO);
}

#[test]
fn the_time_of_a_thread_at_work_is_counted_and_its_sleep_is_not() {
    let pace = Pace::shared();
    Pace::spend(&pace, || sleep(20 * MS));
    let slept = lock(&pace).spent;
    assert!(slept < 10 * MS, "{slept:?}");
    let began = cpu_time();
    Pace::spend(&pace, || while cpu_time() - began < 50 * MS {});
    let worked = lock(&pace).spent;
    assert!(worked > 10 * MS, "{worked:?}");
}

#[test]
fn costly_requests_get_no_more_than_cheap_ones() {
    let worked = worked_in_100_s(300 * MS);
    assert!(
        worked <= Duration::from_secs(100) / PARTS + 2 * BURST,
        "{worked:?} of 100 s"
    );
}
