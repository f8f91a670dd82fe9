use vm_memory::Bytes;

use super::*;

const CHUNK: usize = 4 << 20;
const ROOM: u64 = 64 << 20;

/// RAM of 8 MiB, and room for three chunks of 4 MiB at 64 MiB.
fn memory() -> GuestMemory {
    let room = Hotplug {
        start: GuestAddress(ROOM),
        length: 3 * CHUNK as u64,
        chunk: CHUNK as u64,
    };
    GuestMemory::reserve(&[(GuestAddress(0), 8 << 20)], Some(room)).unwrap()
}

#[test]
fn what_comes_later_is_memory_once_it_is_open() {
    let memory = memory();
    let running = memory.clone();
    let (first, second) = (GuestAddress(ROOM), GuestAddress(ROOM + CHUNK as u64));
    assert!(running.write_obj(1u32, first).is_err());
    memory.open(1);
    running.write_obj(1u32, first).unwrap();
    assert!(running.write_obj(1u32, second).is_err());
    assert!(running.write_obj(1u64, GuestAddress(second.0 - 4)).is_err());
    memory.open(2);
    running.write_obj(1u64, GuestAddress(second.0 - 4)).unwrap();
    memory.open(0);
    running.write_obj(1u32, second).unwrap();
    memory.open(usize::MAX);
    running
        .write_obj(1u32, GuestAddress(ROOM + 3 * CHUNK as u64 - 4))
        .unwrap();
    assert!(running.write_obj(1u32, GuestAddress(ROOM + 3 * CHUNK as u64)).is_err());
}

#[test]
fn ram_is_told_apart_from_what_comes_later() {
    let memory = memory();
    assert_eq!((memory.ram().len(), memory.chunks().len()), (1, 3));
    assert_eq!(memory.num_regions(), 1);
    memory.open(2);
    assert_eq!(memory.num_regions(), 3);
    assert_eq!(memory.last_addr().0, ROOM + 2 * CHUNK as u64 - 1);
}

#[test]
fn huge_pages_of_the_host_are_huge_pages_of_the_guest() {
    for region in memory().shared.regions.iter() {
        assert_eq!(region.as_ptr().addr() % HUGE_PAGE, 0);
    }
}

#[test]
fn discarded_pages_are_zero_and_their_neighbours_stay() {
    let memory = memory();
    memory.open(2);
    for at in [0x1000, 0x2000, 0x3000, ROOM + CHUNK as u64 - 4096, ROOM + CHUNK as u64] {
        memory.write_obj(7u32, GuestAddress(at)).unwrap();
    }
    memory.discard(GuestAddress(0x2000), 4096).unwrap();
    memory.discard(GuestAddress(ROOM + CHUNK as u64 - 4096), 8192).unwrap();
    let at = |address: u64| memory.read_obj::<u32>(GuestAddress(address)).unwrap();
    assert_eq!((at(0x1000), at(0x2000), at(0x3000)), (7, 0, 7));
    assert_eq!((at(ROOM + CHUNK as u64 - 4096), at(ROOM + CHUNK as u64)), (0, 0));
}

#[test]
fn only_whole_pages_of_memory_are_discarded() {
    let memory = memory();
    memory.write_obj(7u32, GuestAddress(0x7f_f000)).unwrap();
    let discard = |at, length| memory.discard(GuestAddress(at), length);
    assert!(matches!(discard(0x10, 4096), Err(DiscardError::Misaligned)));
    assert!(matches!(discard(0x1000, 100), Err(DiscardError::Misaligned)));
    assert!(matches!(discard(0x7f_f000, 8192), Err(DiscardError::OutOfRange)));
    assert!(matches!(discard(ROOM, 4096), Err(DiscardError::OutOfRange)));
    assert!(matches!(discard(u64::MAX - 4095, 8192), Err(DiscardError::OutOfRange)));
    assert_eq!(memory.read_obj::<u32>(GuestAddress(0x7f_f000)).unwrap(), 7);
    discard(0, 0).unwrap();
}

/// Three pages, of which the guest has the first and the last, too.
fn shared(memory: &GuestMemory, at: u64) -> Arc<File> {
    let mut file = File::from(nix::sys::memfd::memfd_create(c"text", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
    for (number, mine, theirs) in [(0, 1u8, 1u8), (1, 2, 9), (2, 3, 3)] {
        memory
            .write_slice(&[mine; 4096], GuestAddress(at + number * 4096))
            .unwrap();
        std::io::Write::write_all(&mut file, &[theirs; 4096]).unwrap();
    }
    Arc::new(file)
}

fn byte(memory: &GuestMemory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn pages_that_are_a_file_s_are_shared_until_they_are_written_to() {
    let (memory, at) = (memory(), 2 << 20);
    let file = shared(&memory, at);
    assert_eq!(memory.share(GuestAddress(at), 3 * 4096, &file, 0).unwrap(), 2);
    assert_eq!([0, 1, 2].map(|page| byte(&memory, at + page * 4096)), [1, 2, 3]);
    memory.write_obj(7u8, GuestAddress(at)).unwrap();
    assert_eq!(byte(&memory, at), 7);
    assert_eq!(byte(&memory, at + 1), 1);
    let mut theirs = [0u8; 1];
    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut theirs, 0).unwrap();
    assert_eq!(theirs, [1]);
}

#[test]
fn a_shared_page_that_is_given_back_is_zero() {
    let (memory, at) = (memory(), 2 << 20);
    let file = shared(&memory, at);
    memory.share(GuestAddress(at), 3 * 4096, &file, 0).unwrap();
    memory.discard(GuestAddress(at), 2 * 4096).unwrap();
    assert_eq!([0, 1, 2].map(|page| byte(&memory, at + page * 4096)), [0, 0, 3]);
    memory.write_obj(7u8, GuestAddress(at)).unwrap();
    assert_eq!(byte(&memory, at), 7);
}

#[test]
fn what_is_not_whole_pages_of_memory_is_not_shared() {
    let (memory, at) = (memory(), 2 << 20);
    let file = shared(&memory, at);
    for (start, length, offset) in [
        (at + 1, 4096, 0),
        (at, 4095, 0),
        (at, 4096, 1),
        (at, 0, 0),
        (8 << 20, 4096, 0),
        (ROOM, 4096, 0),
    ] {
        let result = memory.share(GuestAddress(start), length, &file, offset);
        assert!(matches!(result, Err(ShareError::Range)), "{start:#x} {length} {offset}");
    }
}
