use super::*;

#[test]
fn a_range_shrinks_to_its_whole_pages() {
    let run = |start, length| whole_pages(GuestAddress(start), length).map(|run| (run.start.0, run.length));
    assert_eq!(run(0x1000, 0x2000), Some((0x1000, 0x2000)));
    assert_eq!(run(0x1001, 0x2fff), Some((0x2000, 0x2000)));
    assert_eq!(run(0x0fff, 0x1001), Some((0x1000, 0x1000)));
    for (start, length) in [
        (0, 0),
        (0, 0xfff),
        (1, 0x1000),
        (0x1fff, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, u32::MAX),
    ] {
        assert_eq!(run(start, length), None, "{start:#x}+{length:#x}");
    }
}
