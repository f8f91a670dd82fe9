use super::{is_slewed, offset};
use std::time::Duration;

#[test]
fn an_offset_says_which_clock_is_behind() {
    let now = Duration::from_secs(100);
    assert_eq!(offset(now, 100_000_000_007), 7);
    assert_eq!(offset(now, 99_999_999_000), -1000);
    // A clock that a container has set to a date far away.
    assert_eq!(offset(Duration::from_secs(u64::MAX), 0), i64::MIN);
    assert_eq!(offset(Duration::ZERO, u64::MAX), i64::MAX);
}

#[test]
fn small_offsets_are_slewed_and_large_ones_stepped_in_both_directions() {
    for (offset_ns, slewed) in [
        (0, true),
        (500_000_000, true),
        (-500_000_000, true),
        (500_000_001, false),
        (-500_000_001, false),
        (i64::MIN, false),
    ] {
        assert_eq!(is_slewed(offset_ns), slewed, "{offset_ns}");
    }
}
