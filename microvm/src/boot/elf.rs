//! Copies an uncompressed vmlinux into guest memory.
//!
//! Mapping it from the file would share no pages worth the name between machines, because a kernel patches nearly every page of its text
//! when it boots (alternatives, return thunks), and each such page would cost three exits: to read it, to find it shared, and to write
//! the copy.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryError};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::PAGE_SIZE;
use crate::memory::layout::{CMDLINE, CMDLINE_SIZE, HIGH_RAM_START};
use crate::virtio::device::GuestMemory;

/// Most program headers that are looked at; a vmlinux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_WRITABLE: u32 = 2;

/// ELF-64 file header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub magic: [u8; 4],
    pub class: u8,
    pub data: u8,
    pub ident: [u8; 10],
    pub kind: u16,
    pub machine: u16,
    pub version: u32,
    pub entry: u64,
    pub program_headers: u64,
    pub section_headers: u64,
    pub flags: u32,
    pub header_size: u16,
    pub program_header_size: u16,
    pub program_header_count: u16,
    pub section_header_size: u16,
    pub section_header_count: u16,
    pub section_names: u16,
}

/// ELF-64 program header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub align: u64,
}

/// Why a file is not a kernel that can be booted.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Reading failed, or the file ends too early.
    #[error("cannot read {what} of the kernel image: {source}")]
    Read {
        /// Part of the file.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Another format.
    #[error("the kernel image is no x86-64 ELF executable ({0}); an uncompressed vmlinux is needed, not a bzImage")]
    NotVmlinux(&'static str),
    /// A segment lies where it cannot.
    #[error("segment at {start:#x}+{length:#x} of the kernel image {problem}")]
    Segment {
        /// Guest-physical start.
        start: u64,
        /// Bytes in memory.
        length: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// Copying failed.
    #[error("cannot copy into guest memory at {at:#x}: {source}")]
    Copy {
        /// Guest-physical address.
        at: u64,
        /// The memory's answer.
        source: GuestMemoryError,
    },
}

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Guest-physical address of the first instruction.
    pub entry: GuestAddress,
    /// Bytes that were copied.
    pub bytes_copied: u64,
    /// Whole pages of the first segment that begins on a page and is not to be written to: text and constants. Empty without one.
    pub read_only: (GuestAddress, usize),
}

/// Loads `kernel` at the physical addresses of its segments.
pub fn load(memory: &GuestMemory, kernel: &File) -> Result<LoadedKernel, KernelError> {
    let file_length = kernel
        .metadata()
        .map_err(|source| KernelError::Read {
            what: "the size",
            source,
        })?
        .len();
    let header: FileHeader = read_at(kernel, 0, "the header")?;
    check_header(&header)?;
    let mut bytes_copied = 0;
    let mut entry_is_loaded = false;
    let mut read_only = (GuestAddress(0), 0);
    for index in 0..u64::from(header.program_header_count) {
        let offset = header
            .program_headers
            .checked_add(index * size_of::<ProgramHeader>() as u64)
            .ok_or(KernelError::NotVmlinux("program headers beyond the end"))?;
        let segment: ProgramHeader = read_at(kernel, offset, "a program header")?;
        if segment.kind == SEGMENT_LOAD && segment.memory_size > 0 {
            check_segment(&segment, file_length)?;
            bytes_copied += load_segment(memory, kernel, &segment)?;
            if segment.flags & SEGMENT_WRITABLE == 0
                && read_only.1 == 0
                && segment.physical_address.is_multiple_of(PAGE_SIZE)
            {
                let pages = segment.memory_size / PAGE_SIZE;
                read_only = (GuestAddress(segment.physical_address), (pages * PAGE_SIZE) as usize);
            }
            let end = segment.physical_address + segment.memory_size;
            entry_is_loaded |= (segment.physical_address..end).contains(&header.entry);
        }
    }
    if !entry_is_loaded {
        return Err(KernelError::NotVmlinux("entry point outside of its segments"));
    }
    Ok(LoadedKernel {
        entry: GuestAddress(header.entry),
        bytes_copied,
        read_only,
    })
}

fn check_header(header: &FileHeader) -> Result<(), KernelError> {
    let problem = if header.magic != ELF_MAGIC {
        "no ELF magic"
    } else if header.class != CLASS_64 || header.data != LITTLE_ENDIAN || header.machine != MACHINE_X86_64 {
        "another architecture"
    } else if header.kind != TYPE_EXECUTABLE {
        "not an executable"
    } else if usize::from(header.program_header_size) != size_of::<ProgramHeader>()
        || header.program_header_count > MAX_PROGRAM_HEADERS
    {
        "unusual program headers"
    } else {
        return Ok(());
    };
    Err(KernelError::NotVmlinux(problem))
}

fn check_segment(segment: &ProgramHeader, file_length: u64) -> Result<(), KernelError> {
    let start = segment.physical_address;
    let error = |problem| {
        Err(KernelError::Segment {
            start,
            length: segment.memory_size,
            problem,
        })
    };
    if start < HIGH_RAM_START.max(CMDLINE.0 + CMDLINE_SIZE as u64) {
        return error("lies below 1 MiB");
    }
    if start.checked_add(segment.memory_size).is_none() {
        return error("wraps around");
    }
    if segment.file_size > segment.memory_size {
        return error("is larger in the file than in memory");
    }
    match segment.offset.checked_add(segment.file_size) {
        Some(end) if end <= file_length => Ok(()),
        _ => error("ends beyond the end of the file"),
    }
}

/// Copies what a segment has in the file; returns how many bytes that were.
fn load_segment(memory: &GuestMemory, kernel: &File, segment: &ProgramHeader) -> Result<u64, KernelError> {
    let ProgramHeader {
        physical_address: start,
        offset,
        file_size,
        memory_size,
        ..
    } = *segment;
    let fits = |length| memory.get_slice(GuestAddress(start), length).is_ok();
    if !usize::try_from(memory_size).is_ok_and(fits) {
        return Err(KernelError::Segment {
            start,
            length: memory_size,
            problem: "does not fit into the guest's memory; give the machine more",
        });
    }
    let (mut copied, mut position, end) = (0, offset, offset + file_size);
    // Padding is a hole in the installed file, and memory begins as zeros.
    while let Some(data) = data_from(kernel, position)?.filter(|data| data.start < end) {
        let length = data.end.min(end) - data.start;
        let at = start + (data.start - offset);
        // The position is that of the data.
        memory
            .read_exact_volatile_from(GuestAddress(at), &mut &*kernel, length as usize)
            .map_err(|source| KernelError::Copy { at, source })?;
        copied += length;
        position = data.start + length;
    }
    Ok(copied)
}

/// The first data at or behind a position, up to the next hole or the end of the file; the file's position is then its start. `None`:
/// nothing but a hole follows.
fn data_from(kernel: &File, position: u64) -> Result<Option<Range<u64>>, KernelError> {
    let seek = |to: u64, whence| lseek(kernel, to.cast_signed(), whence).map(i64::cast_unsigned);
    let found = || -> nix::Result<Range<u64>> {
        let start = seek(position, Whence::SeekData)?;
        let end = seek(start, Whence::SeekHole)?;
        seek(start, Whence::SeekSet)?;
        Ok(start..end)
    };
    match found() {
        Ok(data) => Ok(Some(data)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(KernelError::Read {
            what: "a segment",
            source: errno.into(),
        }),
    }
}

fn read_at<T: FromBytes + IntoBytes>(kernel: &File, offset: u64, what: &'static str) -> Result<T, KernelError> {
    let mut value = T::new_zeroed();
    kernel
        .read_exact_at(value.as_mut_bytes(), offset)
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => KernelError::NotVmlinux("too short"),
            _ => KernelError::Read { what, source },
        })?;
    Ok(value)
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod elf_test;
