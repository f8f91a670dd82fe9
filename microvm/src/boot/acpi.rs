//! Hardware-reduced ACPI tables: processors, the I/O APIC, one PCI bus with its configuration space, one serial port, and the
//! registers that power the machine off and reset it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as RegisterSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::layout::{
    ACPI_TABLES, ACPI_TABLES_SIZE, IO_APIC, LOCAL_APIC, PCI_BARS, PCI_BARS_SIZE, PCI_ECAM, RESET_PORT, SERIAL_IRQ,
    SERIAL_PORT, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};
use crate::virtio::device::GuestMemory;

const OEM: [u8; 6] = *b"BULKHD";
const OEM_TABLE: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;

/// SLP_TYP of the power-off state: what `\_S5` names and the sleep control register gets.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What a write to the reset register resets on.
pub const RESET_VALUE: u8 = 1;

/// IA-PC boot flags: no VGA to probe, no CMOS clock; the bit for a keyboard controller stays clear.
const BOOT_NO_VGA_NO_CMOS: u16 = 1 << 2 | 1 << 5;

/// Why the tables could not be written.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// More than the reserved range holds.
    #[error("the ACPI tables need {bytes} bytes, there is room for {room}")]
    TooLarge {
        /// Needed.
        bytes: u64,
        /// Room.
        room: u64,
    },
    /// Guest memory refused.
    #[error("cannot write the ACPI tables into guest memory: {0}")]
    Write(#[source] GuestMemoryError),
}

/// Writes the tables for `vcpus` processors, all enabled, whether they are there yet or not; returns how many bytes that were. The
/// RSDP is at [`ACPI_TABLES`].
pub fn write(memory: &GuestMemory, vcpus: u8) -> Result<u64, AcpiError> {
    let tables = tables(ACPI_TABLES.0, vcpus);
    let bytes = tables.len() as u64;
    if bytes > ACPI_TABLES_SIZE {
        return Err(AcpiError::TooLarge {
            bytes,
            room: ACPI_TABLES_SIZE,
        });
    }
    memory
        .write_slice(&tables, GuestAddress(ACPI_TABLES.0))
        .map_err(AcpiError::Write)?;
    Ok(bytes)
}

/// All tables as they lie from `base` on: RSDP, then DSDT, FADT, MADT, MCFG and XSDT, each 16-byte aligned.
fn tables(base: u64, vcpus: u8) -> Vec<u8> {
    let mut image = vec![0u8; Rsdp::len().next_multiple_of(16)];
    let mut place = |table: &dyn Aml| -> u64 {
        let at = base + image.len() as u64;
        table.to_aml_bytes(&mut image);
        image.resize(image.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = place(&dsdt());
    let entries = [place(&fadt(dsdt)), place(&madt(vcpus)), place(&mcfg())];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(entry);
    }
    let xsdt = place(&xsdt);
    let mut pointer = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut pointer);
    image.splice(..pointer.len(), pointer);
    image
}

fn byte_port(port: u16) -> GAS {
    GAS::new(RegisterSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    table.iapc_boot_arch = BOOT_NO_VGA_NO_CMOS.into();
    table.reset_reg = byte_port(RESET_PORT);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = byte_port(SLEEP_CONTROL_PORT);
    table.sleep_status_reg = byte_port(SLEEP_STATUS_PORT);
    table.finalize()
}

fn madt(vcpus: u8) -> impl Aml {
    let mut table = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for id in 0..vcpus {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

fn mcfg() -> impl Aml {
    let mut table = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    table.add_ecam(PCI_ECAM, 0, 0, 0);
    table
}

fn dsdt() -> impl Aml {
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    let mut aml = Vec::new();
    pci_bus(&mut aml);
    serial_port(&mut aml);
    let off = &SLEEP_TYPE_OFF;
    Name::new("_S5_".into(), &Package::new(vec![off, &ZERO, &ZERO, &ZERO])).to_aml_bytes(&mut aml);
    table.append_slice(&aml);
    table
}

fn pci_bus(aml: &mut Vec<u8>) {
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        PCI_BARS as u32,
        (PCI_BARS + PCI_BARS_SIZE - 1) as u32,
        None,
    );
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&AddressSpace::new_bus_number(0u16, 0), &window]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial_port(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("_SB_.COM1"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, SERIAL_IRQ),
                    &IO::new(SERIAL_PORT, SERIAL_PORT, 0, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
#[path = "acpi_test.rs"]
mod acpi_test;
