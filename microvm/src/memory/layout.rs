//! The guest-physical address map.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 640 KiB | RAM: boot structures, later the kernel's real-mode trampoline |
//! | 896 KiB | 1 MiB | ACPI tables (reserved) |
//! | 1 MiB | at most 3 GiB | RAM |
//! | 3 GiB | 3.25 GiB | agent image, read-only |
//! | 3.25 GiB | 3.5 GiB | PCI BARs |
//! | 3.5 GiB | + 1 MiB | PCI configuration space (ECAM), read-only |
//! | 0xfec00000 | 4 GiB | I/O APIC, local APIC, KVM's own pages |
//! | 4 GiB | | the rest of RAM |
//! | above RAM, aligned | | room for memory that comes later |

use vm_memory::GuestAddress;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Global descriptor table of the first vCPU's first moments.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// Interrupt descriptor table; empty.
pub const IDT: GuestAddress = GuestAddress(0x520);
/// Zero page (struct boot_params).
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// setup_data list with the random seed.
pub const SETUP_DATA: GuestAddress = GuestAddress(0x8000);
/// Identity-mapping page tables: PML4, PDPT and PD, one page each.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel command line.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Longest command line with its final zero byte (x86 COMMAND_LINE_SIZE).
pub const CMDLINE_SIZE: usize = 2048;
/// End of low RAM.
pub const LOW_RAM_END: u64 = 640 * KIB;
/// ACPI tables, RSDP first.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// Room for them.
pub const ACPI_TABLES_SIZE: u64 = 128 * KIB;
/// Where RAM goes on after the reserved range.
pub const HIGH_RAM_START: u64 = MIB;

/// The hole for devices below 4 GiB.
pub const MMIO_HOLE_START: u64 = 3 * GIB;
/// Its end.
pub const MMIO_HOLE_END: u64 = 4 * GIB;

/// Agent image.
pub const AGENT_IMAGE: GuestAddress = GuestAddress(MMIO_HOLE_START);
/// Largest agent image.
pub const AGENT_IMAGE_MAX: u64 = 256 * MIB;
/// Alignment of its size: what memremap_pages of the guest asks for.
pub const AGENT_IMAGE_ALIGN: u64 = 2 * MIB;

/// PCI memory BARs.
pub const PCI_BARS: u64 = MMIO_HOLE_START + AGENT_IMAGE_MAX;
/// Their room.
pub const PCI_BARS_SIZE: u64 = 256 * MIB;
/// Configuration space of bus 0.
pub const PCI_ECAM: u64 = PCI_BARS + PCI_BARS_SIZE;
/// Its size: 32 devices of 8 functions of 4 KiB.
pub const PCI_ECAM_SIZE: u64 = MIB;

/// I/O APIC (in KVM).
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC (in KVM).
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page for KVM's identity map on Intel.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment on Intel.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_IRQ: u32 = 4;
/// ACPI sleep control register (hardware-reduced), one byte.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register, one byte.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register, one byte.
pub const RESET_PORT: u16 = 0x602;

/// Unit in which Linux adds memory to a machine: its memory block.
const MEMORY_BLOCK: u64 = 128 * MIB;
/// A machine whose RAM ends here or above may have larger memory blocks,
const LARGE_RAM_END: u64 = 64 * GIB;
/// of at most this size.
const LARGE_MEMORY_BLOCK: u64 = 2 * GIB;

/// Room for memory that comes later, in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hotplug {
    /// First byte; a multiple of `chunk`.
    pub start: GuestAddress,
    /// Bytes; a multiple of `chunk`.
    pub length: u64,
    /// What becomes usable at a time, in bytes: a whole number of the guest kernel's memory blocks.
    pub chunk: u64,
}

/// Where the RAM of one machine lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    below_hole: u64,
    above_hole: u64,
    hotplug: Option<Hotplug>,
}

impl Layout {
    /// For a machine with `mebibytes` of memory.
    pub fn new(mebibytes: u32) -> Layout {
        let total = u64::from(mebibytes) * MIB;
        let below_hole = total.min(MMIO_HOLE_START);
        Layout {
            below_hole,
            above_hole: total - below_hole,
            hotplug: None,
        }
    }

    /// With room for as much more memory as makes `mebibytes` in all.
    pub fn growing_to(self, mebibytes: u32) -> Layout {
        let more = (u64::from(mebibytes) * MIB).saturating_sub(self.below_hole + self.above_hole);
        let ram_end = MMIO_HOLE_END + self.above_hole;
        let chunk = if ram_end < LARGE_RAM_END {
            MEMORY_BLOCK
        } else {
            LARGE_MEMORY_BLOCK
        };
        let hotplug = (more > 0).then(|| Hotplug {
            start: GuestAddress(ram_end.next_multiple_of(chunk)),
            length: more.next_multiple_of(chunk),
            chunk,
        });
        Layout { hotplug, ..self }
    }

    /// Start and length of the RAM below the hole.
    pub fn low(&self) -> (GuestAddress, u64) {
        (GuestAddress(0), self.below_hole)
    }

    /// Start and length of the RAM above the hole, if the machine is that large.
    pub fn high(&self) -> Option<(GuestAddress, u64)> {
        (self.above_hole > 0).then_some((GuestAddress(MMIO_HOLE_END), self.above_hole))
    }

    /// Room for memory that comes later, if there is any.
    pub fn hotplug(&self) -> Option<Hotplug> {
        self.hotplug
    }

    /// First guest-physical address above everything.
    pub fn end(&self) -> u64 {
        let ram_end = MMIO_HOLE_END + self.above_hole;
        self.hotplug.map_or(ram_end, |room| room.start.0 + room.length)
    }

    /// What the guest is told (e820): ranges of usable RAM.
    pub fn usable(&self) -> Vec<(u64, u64)> {
        let mut ranges = vec![(0, LOW_RAM_END), (HIGH_RAM_START, self.below_hole - HIGH_RAM_START)];
        ranges.extend(self.high().map(|(start, length)| (start.0, length)));
        ranges
    }
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod layout_test;
