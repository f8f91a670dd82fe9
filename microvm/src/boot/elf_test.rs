use std::io::Write;

use zerocopy::FromZeros;

use super::*;
use crate::memory::Layout;

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
fn whole_pages_are_mapped_and_only_the_tail_is_copied() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let kernel = image(header(0x100_0000, 1), &[segment(0x100_0000, 0x1000, 0x2010, 0x5000)], 8);
    let loaded = load(&memory, &kernel).unwrap();
    assert_eq!(
        loaded,
        LoadedKernel {
            entry: GuestAddress(0x100_0000),
            bytes_copied: 0x10
        }
    );
    assert_eq!(byte(&memory, 0x100_0000), 1);
    assert_eq!(byte(&memory, 0x100_1fff), 2);
    assert_eq!(byte(&memory, 0x100_200f), 3);
    assert_eq!(
        byte(&memory, 0x100_2010),
        0,
        "what follows in the file must not leak into the bss"
    );
}

#[test]
fn an_unaligned_start_is_copied_up_to_the_page() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let kernel = image(header(0x100_0800, 1), &[segment(0x100_0800, 0x1800, 0x1800, 0x1800)], 8);
    assert_eq!(load(&memory, &kernel).unwrap().bytes_copied, 0x800);
    assert_eq!(byte(&memory, 0x100_07ff), 0);
    assert_eq!(byte(&memory, 0x100_0800), 1);
    assert_eq!(byte(&memory, 0x100_1000), 2);
}

#[test]
fn an_incongruent_segment_is_copied_whole() {
    let memory = ram::reserve(&Layout::new(64)).unwrap();
    let kernel = image(header(0x100_0000, 1), &[segment(0x100_0000, 0x1100, 0x2000, 0x2000)], 8);
    assert_eq!(load(&memory, &kernel).unwrap().bytes_copied, 0x2000);
    assert_eq!(byte(&memory, 0x100_0eff), 1);
    assert_eq!(byte(&memory, 0x100_0f00), 2);
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
