use std::io::Write;

use zerocopy::FromZeros;

use super::*;
use crate::memory::{Layout, ram};

fn header(entry: u64, count: u16) -> FileHeader {
    let mut header = FileHeader::new_zeroed();
    header.magic = ELF_MAGIC;
    header.class = CLASS_64;
    header.data = LITTLE_ENDIAN;
    header.kind = TYPE_EXECUTABLE;
    header.machine = MACHINE_X86_64;
    header.entry = entry;
    header.program_headers = 64;
    header.program_header_size = 56;
    header.program_header_count = count;
    header
}

fn segment(physical_address: u64, offset: u64, file_size: u64, memory_size: u64) -> ProgramHeader {
    let mut segment = ProgramHeader::new_zeroed();
    segment.kind = SEGMENT_LOAD;
    segment.physical_address = physical_address;
    segment.offset = offset;
    segment.file_size = file_size;
    segment.memory_size = memory_size;
    segment
}

/// A file whose byte at position p is p / 4096, with the headers over its beginning.
fn image(header: FileHeader, segments: &[ProgramHeader], pages: u8) -> File {
    let fd = nix::sys::memfd::memfd_create(c"kernel", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(fd);
    for page in 0..pages {
        file.write_all(&[page; 4096]).unwrap();
    }
    file.write_all_at(header.as_bytes(), 0).unwrap();
    for (index, segment) in segments.iter().enumerate() {
        file.write_all_at(segment.as_bytes(), 64 + 56 * index as u64).unwrap();
    }
    file
}

fn byte(memory: &GuestMemory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn what_the_file_has_is_copied_and_the_rest_is_zero() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let kernel = image(header(0x100_0800, 1), &[segment(0x100_0800, 0x1100, 0x2010, 0x5000)], 8);
    let loaded = load(&memory, &kernel).unwrap();
    let expected = LoadedKernel {
        entry: GuestAddress(0x100_0800),
        bytes_copied: 0x2010,
        read_only: (GuestAddress(0), 0),
    };
    assert_eq!(loaded, expected);
    assert_eq!(byte(&memory, 0x100_07ff), 0);
    assert_eq!(byte(&memory, 0x100_0800), 1);
    assert_eq!(byte(&memory, 0x100_16ff), 1);
    assert_eq!(byte(&memory, 0x100_1700), 2);
    assert_eq!(byte(&memory, 0x100_280f), 3);
    assert_eq!(
        byte(&memory, 0x100_2810),
        0,
        "what follows in the file must not leak into the bss"
    );
}

#[test]
fn holes_of_the_file_are_not_copied() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let kernel = image(header(0x100_0000, 1), &[segment(0x100_0000, 0x1000, 0x5000, 0x5000)], 8);
    let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&kernel, hole, 0x3000, 0x2000).unwrap();
    assert_eq!(load(&memory, &kernel).unwrap().bytes_copied, 0x3000);
    let bytes = [0x100_1fff, 0x100_2000, 0x100_3fff, 0x100_4000].map(|at| byte(&memory, at));
    assert_eq!(bytes, [2, 0, 0, 5]);
}

#[test]
fn what_is_no_kernel_is_refused_with_a_reason() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let refuse = |kernel: File| load(&memory, &kernel).unwrap_err().to_string();
    let empty = File::from(nix::sys::memfd::memfd_create(c"e", nix::sys::memfd::MFdFlags::empty()).unwrap());
    assert!(refuse(empty).contains("too short"));
    assert!(refuse(image(FileHeader::new_zeroed(), &[], 1)).contains("no ELF magic"));
    let good = segment(0x100_0000, 0x1000, 0x1000, 0x1000);
    assert!(refuse(image(header(0x200_0000, 1), &[good], 4)).contains("entry point"));
    let cases = [
        (
            segment(0x100_0000, 0x1000, 0x10_0000, 0x10_0000),
            "beyond the end of the file",
        ),
        (segment(0x100_0000, 0x1000, 0x2000, 0x1000), "larger in the file"),
        (segment(0x8000, 0x1000, 0x1000, 0x1000), "below 1 MiB"),
        (
            segment(0x100_0000, u64::MAX, 0x1000, 0x1000),
            "beyond the end of the file",
        ),
        (segment(0x100_0000, 0x1000, 0x1000, u64::MAX), "wraps around"),
        (segment(0x100_0000, 0x1000, 0x1000, 1 << 40), "give the machine more"),
    ];
    for (segment, reason) in cases {
        let message = refuse(image(header(0x100_0000, 1), &[segment], 4));
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn text_is_the_first_whole_pages_that_are_not_to_be_written_to() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let mut text = segment(0x100_1000, 0x1000, 0x2010, 0x2010);
    text.flags = 5;
    let mut data = segment(0x110_0000, 0x1000, 0x1000, 0x1000);
    data.flags = 6;
    for (segments, expected) in [
        (vec![data, text], (GuestAddress(0x100_1000), 0x2000)),
        (vec![text, data], (GuestAddress(0x100_1000), 0x2000)),
        (vec![data], (GuestAddress(0), 0)),
    ] {
        let entry = segments[0].physical_address;
        let kernel = image(header(entry, segments.len() as u16), &segments, 8);
        assert_eq!(load(&memory, &kernel).unwrap().read_only, expected);
    }
}
