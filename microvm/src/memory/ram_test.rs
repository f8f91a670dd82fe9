use std::io::Write;

use vm_memory::Bytes;

use super::*;

fn file_of(pages: &[u8]) -> File {
    let fd = nix::sys::memfd::memfd_create(c"pages", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(fd);
    for byte in pages {
        file.write_all(&[*byte; PAGE_SIZE as usize]).unwrap();
    }
    file
}

#[test]
fn a_file_shows_through_and_is_never_written() {
    let memory = reserve(&Layout::new(64)).unwrap();
    let file = file_of(&[1, 2, 3]);
    lay_file_over(&memory, GuestAddress(0x20_0000), 2 * 4096, &file, 4096).unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_0000)).unwrap(), 2);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_1000)).unwrap(), 3);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x20_2000)).unwrap(), 0);
    memory.write_obj(9u8, GuestAddress(0x20_0000)).unwrap();
    let mut byte = [0u8];
    std::os::unix::fs::FileExt::read_at(&file, &mut byte, 4096).unwrap();
    assert_eq!(byte, [2]);
}

#[test]
fn a_range_outside_ram_is_refused() {
    let memory = reserve(&Layout::new(64)).unwrap();
    let file = file_of(&[1]);
    assert!(matches!(
        lay_file_over(&memory, GuestAddress(64 << 20), 4096, &file, 0),
        Err(RamError::NotRam { .. })
    ));
    assert!(matches!(
        lay_file_over(&memory, GuestAddress(0x800), 4096, &file, 0),
        Err(RamError::Unaligned { .. })
    ));
}

#[test]
fn a_machine_above_the_hole_has_both_ranges() {
    let memory = reserve(&Layout::new(4 * 1024)).unwrap();
    memory.write_obj(7u32, GuestAddress((5 << 30) - 4)).unwrap();
    assert!(memory.write_obj(7u32, GuestAddress(3 << 30)).is_err());
    assert!(memory.write_obj(7u32, GuestAddress(5 << 30)).is_err());
}
