use super::*;
use crate::memory::ram;

#[test]
fn the_memory_map_is_ascending_without_overlap() {
    for mebibytes in [64, 2048, 3072, 8192] {
        let map = e820(&Layout::new(mebibytes), 4 << 20);
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(map.contains(&(3 << 30, 4 << 20, E820::LegacyPmem)));
    }
}

#[test]
fn the_zero_page_leads_to_the_command_line_and_the_seed() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let map = e820(&Layout::new(64), 2 << 20);
    let seed = [0x5a; SEED_BYTES];
    write(&memory, "quiet", &map, &seed).unwrap();
    let cmdline: u32 = memory.read_obj(GuestAddress(ZERO_PAGE.0 + 0x228)).unwrap();
    let mut text = [0u8; 6];
    memory.read_slice(&mut text, GuestAddress(cmdline.into())).unwrap();
    assert_eq!(&text, b"quiet\0");
    let data: u64 = memory.read_obj(GuestAddress(ZERO_PAGE.0 + 0x250)).unwrap();
    let next: u64 = memory.read_obj(GuestAddress(data)).unwrap();
    let kind: u32 = memory.read_obj(GuestAddress(data + 8)).unwrap();
    let length: u32 = memory.read_obj(GuestAddress(data + 12)).unwrap();
    let first: u8 = memory.read_obj(GuestAddress(data + 16)).unwrap();
    assert_eq!((next, kind, length, first), (0, 9, 32, 0x5a));
    let count: u8 = memory.read_obj(GuestAddress(ZERO_PAGE.0 + 0x1e8)).unwrap();
    assert_eq!(usize::from(count), map.len());
    let rsdp: u64 = memory.read_obj(GuestAddress(ZERO_PAGE.0 + 0x70)).unwrap();
    assert_eq!(rsdp, ACPI_TABLES.0);
}
