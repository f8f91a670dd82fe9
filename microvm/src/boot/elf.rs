//! Puts an uncompressed vmlinux into guest memory: whole pages are mapped from the file, only ragged edges are copied.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryError};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::layout::{CMDLINE, CMDLINE_SIZE, HIGH_RAM_START};
use crate::memory::{PAGE_SIZE, ram};
use crate::virtio::device::GuestMemory;

/// Most program headers that are looked at; a vmlinux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;

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
    /// Mapping the file failed.
    #[error("cannot map the kernel image: {0}")]
    Map(#[from] ram::RamError),
    /// Copying an edge failed.
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
    /// Bytes that had to be copied.
    pub bytes_copied: u64,
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
    for index in 0..u64::from(header.program_header_count) {
        let offset = header
            .program_headers
            .checked_add(index * size_of::<ProgramHeader>() as u64)
            .ok_or(KernelError::NotVmlinux("program headers beyond the end"))?;
        let segment: ProgramHeader = read_at(kernel, offset, "a program header")?;
        if segment.kind == SEGMENT_LOAD && segment.memory_size > 0 {
            check_segment(&segment, file_length)?;
            bytes_copied += load_segment(memory, kernel, &segment)?;
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

/// Maps the whole pages and copies the edges; returns the number of bytes copied.
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
    let congruent = start % PAGE_SIZE == offset % PAGE_SIZE;
    let head = if congruent {
        (start.next_multiple_of(PAGE_SIZE) - start).min(file_size)
    } else {
        file_size
    };
    let mapped = (file_size - head) / PAGE_SIZE * PAGE_SIZE;
    let tail = file_size - head - mapped;
    copy(memory, kernel, start, offset, head)?;
    ram::lay_file_over(
        memory,
        GuestAddress(start + head),
        mapped as usize,
        kernel,
        offset + head,
    )?;
    copy(memory, kernel, start + head + mapped, offset + head + mapped, tail)?;
    Ok(head + tail)
}

fn copy(memory: &GuestMemory, kernel: &File, to: u64, offset: u64, length: u64) -> Result<(), KernelError> {
    let mut buffer = [0u8; 16 * 1024];
    let mut done = 0;
    while done < length {
        let step = (length - done).min(buffer.len() as u64) as usize;
        let chunk = buffer.get_mut(..step).unwrap_or_default();
        kernel
            .read_exact_at(chunk, offset + done)
            .map_err(|source| KernelError::Read {
                what: "a segment",
                source,
            })?;
        let at = to + done;
        memory
            .write_slice(chunk, GuestAddress(at))
            .map_err(|source| KernelError::Copy { at, source })?;
        done += step as u64;
    }
    Ok(())
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
