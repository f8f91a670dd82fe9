//! The zero page of the 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst).
//!
//! Written by offset: the layout is the kernel's promise to boot loaders and does not change.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Layout;
use crate::memory::layout::{
    ACPI_TABLES, AGENT_IMAGE, CMDLINE, CMDLINE_SIZE, HIGH_RAM_START, LOW_RAM_END, PCI_ECAM, PCI_ECAM_SIZE, SETUP_DATA,
    ZERO_PAGE,
};
use crate::virtio::device::GuestMemory;

/// Length of the random seed in bytes: the kernel's own pool takes 32.
pub const SEED_BYTES: usize = 32;

/// Offsets in struct boot_params, and the values that never change.
mod zero_page {
    pub const ACPI_RSDP: u64 = 0x070;
    pub const E820_COUNT: u64 = 0x1e8;
    pub const BOOT_FLAG: u64 = 0x1fe;
    pub const BOOT_FLAG_VALUE: u16 = 0xaa55;
    pub const HEADER: u64 = 0x202;
    pub const HEADER_VALUE: [u8; 4] = *b"HdrS";
    pub const VERSION: u64 = 0x206;
    pub const VERSION_VALUE: u16 = 0x020f;
    pub const LOADER: u64 = 0x210;
    pub const LOADER_UNDEFINED: u8 = 0xff;
    pub const CMDLINE_POINTER: u64 = 0x228;
    pub const CMDLINE_LENGTH: u64 = 0x238;
    pub const SETUP_DATA_POINTER: u64 = 0x250;
    pub const E820_TABLE: u64 = 0x2d0;
    pub const E820_ENTRY_SIZE: u64 = 20;
}

/// setup_data type of a random seed.
const SETUP_RNG_SEED: u32 = 9;

/// e820 types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum E820 {
    /// Usable.
    Ram = 1,
    /// Not usable.
    Reserved = 2,
    /// Persistent memory as older firmware announces it; the kernel makes it /dev/pmem0 without any device.
    LegacyPmem = 12,
}

/// Why the parameters could not be written.
#[derive(Debug, Error)]
#[error("cannot write {what} into guest memory: {source}")]
pub struct ParamsError {
    what: &'static str,
    source: GuestMemoryError,
}

/// The memory map that the guest is told, ascending.
pub fn e820(layout: &Layout, agent_image_bytes: u64) -> Vec<(u64, u64, E820)> {
    let mut map: Vec<(u64, u64, E820)> = layout
        .usable()
        .into_iter()
        .map(|(start, length)| (start, length, E820::Ram))
        .collect();
    map.push((LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, E820::Reserved));
    map.push((AGENT_IMAGE.0, agent_image_bytes, E820::LegacyPmem));
    map.push((PCI_ECAM, PCI_ECAM_SIZE, E820::Reserved));
    map.sort_by_key(|entry| entry.0);
    map
}

/// Writes zero page, command line and seed; returns how many bytes that were.
pub fn write(
    memory: &GuestMemory,
    cmdline: &str,
    map: &[(u64, u64, E820)],
    seed: &[u8; SEED_BYTES],
) -> Result<u64, ParamsError> {
    use zero_page::*;
    let mut writer = Writer { memory, written: 0 };
    let at = |offset: u64| GuestAddress(ZERO_PAGE.0 + offset);
    let page = "the boot parameters";
    writer.put(page, at(ACPI_RSDP), &ACPI_TABLES.0.to_le_bytes())?;
    writer.put(page, at(BOOT_FLAG), &BOOT_FLAG_VALUE.to_le_bytes())?;
    writer.put(page, at(HEADER), &HEADER_VALUE)?;
    writer.put(page, at(VERSION), &VERSION_VALUE.to_le_bytes())?;
    writer.put(page, at(LOADER), &[LOADER_UNDEFINED])?;
    writer.put(page, at(CMDLINE_POINTER), &(CMDLINE.0 as u32).to_le_bytes())?;
    writer.put(page, at(CMDLINE_LENGTH), &(CMDLINE_SIZE as u32 - 1).to_le_bytes())?;
    writer.put(page, at(SETUP_DATA_POINTER), &SETUP_DATA.0.to_le_bytes())?;
    writer.put(page, at(E820_COUNT), &[map.len() as u8])?;
    for (index, (start, length, kind)) in map.iter().enumerate() {
        let entry = at(E820_TABLE + index as u64 * E820_ENTRY_SIZE);
        writer.put(page, entry, &start.to_le_bytes())?;
        writer.put(page, GuestAddress(entry.0 + 8), &length.to_le_bytes())?;
        writer.put(page, GuestAddress(entry.0 + 16), &(*kind as u32).to_le_bytes())?;
    }
    writer.put("the command line", CMDLINE, cmdline.as_bytes())?;
    let header: Vec<u8> = [
        &0u64.to_le_bytes()[..],
        &SETUP_RNG_SEED.to_le_bytes(),
        &(SEED_BYTES as u32).to_le_bytes(),
    ]
    .concat();
    writer.put("the random seed", SETUP_DATA, &header)?;
    writer.put(
        "the random seed",
        GuestAddress(SETUP_DATA.0 + header.len() as u64),
        seed,
    )?;
    Ok(writer.written)
}

struct Writer<'a> {
    memory: &'a GuestMemory,
    written: u64,
}

impl Writer<'_> {
    fn put(&mut self, what: &'static str, at: GuestAddress, bytes: &[u8]) -> Result<(), ParamsError> {
        self.memory
            .write_slice(bytes, at)
            .map_err(|source| ParamsError { what, source })?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
#[path = "params_test.rs"]
mod params_test;
