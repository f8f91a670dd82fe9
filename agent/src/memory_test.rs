use super::*;

#[test]
fn the_mark_leaves_room_above_it_in_machines_of_any_size() {
    for mib in [64, 128, 480, 4096, 1 << 20] {
        let total = mib * MIB;
        let room = total - mark(total);
        assert!(room >= (RESERVE + total / RESERVE_PART).min(total / 4), "{mib} MiB");
        assert!(mark(total) > total / 2, "{mib} MiB");
    }
}

#[test]
fn a_machine_asks_for_whole_blocks_and_the_more_the_larger_it_is() {
    assert_eq!(step(480 * MIB), LEAST);
    assert_eq!(step(2000 * MIB), 7 * BLOCK);
    assert_eq!(step(2000 * MIB) % BLOCK, 0);
}

#[test]
fn the_total_is_read_in_bytes() {
    assert_eq!(
        total_in("MemTotal:         489416 kB\nMemFree: 1 kB\n"),
        Some(489_416 << 10)
    );
    assert_eq!(total_in("MemFree: 1 kB\n"), None);
}
