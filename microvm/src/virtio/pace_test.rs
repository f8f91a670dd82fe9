use super::*;

const MS: Duration = Duration::from_millis(1);

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
    let mut pace = Pace::new();
    let (start, mut now, mut worked) = (pace.since, pace.since, Duration::ZERO);
    while now - start < Duration::from_secs(100) {
        worked += 10 * MS;
        now += 10 * MS;
        now += pace.pause_after(10 * MS, now);
    }
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
    let mut pace = Pace::new();
    pace.spend(|| sleep(20 * MS));
    assert!(pace.spent < 10 * MS, "{:?}", pace.spent);
    let began = cpu_time();
    pace.spend(|| while cpu_time() - began < 50 * MS {});
    assert!(pace.spent > 10 * MS, "{:?}", pace.spent);
}
