use super::*;

#[test]
fn a_small_machine_lies_below_the_hole() {
    let layout = Layout::new(256);
    assert_eq!(layout.low(), (GuestAddress(0), 256 << 20));
    assert_eq!(layout.high(), None);
    assert_eq!(layout.usable(), vec![(0, 640 << 10), (1 << 20, 255 << 20)]);
}

#[test]
fn a_large_machine_goes_on_above_four_gibibytes() {
    let layout = Layout::new(5 * 1024);
    assert_eq!(layout.low().1, 3 << 30);
    assert_eq!(layout.high(), Some((GuestAddress(4 << 30), 2 << 30)));
    assert_eq!(
        layout.usable().iter().map(|range| range.1).sum::<u64>(),
        (5 << 30) - (384 << 10)
    );
}

#[test]
fn exactly_the_hole_needs_no_second_range() {
    assert_eq!(Layout::new(3 * 1024).high(), None);
    assert_eq!(Layout::new(3 * 1024 + 1).high(), Some((GuestAddress(4 << 30), 1 << 20)));
}

#[test]
fn memory_that_comes_later_lies_above_all_ram() {
    let small = Layout::new(256).growing_to(1024);
    let room = small.hotplug().unwrap();
    assert_eq!((room.start, room.length), (GuestAddress(4 << 30), 768 << 20));
    assert_eq!(small.usable(), Layout::new(256).usable(), "the guest is not told");
    assert_eq!(small.end(), (4 << 30) + (768 << 20));

    let odd = Layout::new(4 * 1024 + 1).growing_to(4 * 1024 + 2).hotplug().unwrap();
    assert_eq!((odd.start.0, odd.length), ((5 << 30) + (128 << 20), 128 << 20));
}

#[test]
fn a_machine_that_does_not_grow_has_no_room() {
    let layout = Layout::new(5 * 1024).growing_to(5 * 1024);
    assert_eq!(layout.hotplug(), None);
    assert_eq!(layout.end(), 6 << 30);
}

#[test]
fn the_largest_machines_grow_in_the_largest_memory_blocks() {
    let room = Layout::new(64 * 1024).growing_to(65 * 1024).hotplug().unwrap();
    assert_eq!(room.chunk, 2 << 30);
    assert_eq!((room.start.0, room.length), (66 << 30, 2 << 30));
    let largest = Layout::new(u32::MAX).growing_to(u32::MAX);
    assert!(largest.end() > 1 << 51);
}

#[test]
fn the_ranges_of_the_hole_do_not_overlap() {
    let mut ranges = [
        (AGENT_IMAGE.0, AGENT_IMAGE_MAX),
        (PCI_BARS, PCI_BARS_SIZE),
        (PCI_ECAM, PCI_ECAM_SIZE),
        (u64::from(IO_APIC), 0x1000),
        (u64::from(LOCAL_APIC), 0x1000),
        (KVM_IDENTITY_MAP, 0x1000),
        (KVM_TSS as u64, 0x3000),
    ];
    ranges.sort();
    assert!(ranges[0].0 >= MMIO_HOLE_START);
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
    assert!(ranges[6].0 + ranges[6].1 <= MMIO_HOLE_END);
}
