use super::*;

const BASE: u64 = 0xe_0000;

fn u32_at(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a guest address, with its checksum verified.
fn table(image: &[u8], address: u64) -> &[u8] {
    let at = (address - BASE) as usize;
    let table = &image[at..at + u32_at(image, at + 4) as usize];
    assert_eq!(sum(table), 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
    table
}

#[test]
fn every_table_is_reachable_and_its_checksum_is_right() {
    let image = tables(BASE, 4);
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!(sum(&image[..20]), 0);
    assert_eq!(sum(&image[..36]), 0);
    let xsdt = table(&image, u64_at(&image, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let found: Vec<&[u8]> = (36..xsdt.len())
        .step_by(8)
        .map(|at| table(&image, u64_at(xsdt, at)))
        .collect();
    let names: Vec<&[u8]> = found.iter().map(|table| &table[..4]).collect();
    assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
    let dsdt = table(&image, u64_at(found[0], 140));
    assert_eq!(&dsdt[..4], b"DSDT");
    assert!(dsdt.windows(4).any(|name| name == b"_S5_"));
}

#[test]
fn the_fixed_table_names_the_reset_and_sleep_registers() {
    let image = tables(BASE, 1);
    let xsdt = table(&image, u64_at(&image, 24));
    let fadt = table(&image, u64_at(xsdt, 36));
    let flags = u32_at(fadt, 112);
    assert_ne!(flags & 1 << 20, 0, "hardware reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register");
    assert_eq!(u64_at(fadt, 116 + 4), u64::from(RESET_PORT));
    assert_eq!(u64_at(fadt, 244 + 4), u64::from(SLEEP_CONTROL_PORT));
}

#[test]
fn each_processor_has_its_entry() {
    let one = tables(BASE, 1);
    let many = tables(BASE, 128);
    let count = |image: &[u8]| {
        let xsdt = table(image, u64_at(image, 24));
        let madt = table(image, u64_at(xsdt, 44));
        let mut at = 44;
        let mut processors = 0;
        while at < madt.len() {
            processors += usize::from(madt[at] == 0);
            at += usize::from(madt[at + 1]);
        }
        processors
    };
    assert_eq!(count(&one), 1);
    assert_eq!(count(&many), 128);
    assert!((many.len() as u64) < ACPI_TABLES_SIZE);
}
