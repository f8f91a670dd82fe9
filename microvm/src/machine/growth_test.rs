use bulkhead_vmm_control::JailSpec;

use super::*;

/// Slots of no machine.
struct NoSlots;

impl Memslots for NoSlots {
    fn show(&self, _chunk: usize) -> Result<(), VmError> {
        Ok(())
    }

    fn hide(&self, _chunk: usize) -> Result<(), VmError> {
        Ok(())
    }
}

fn growth(memory_mib: u32, max_memory_mib: u32) -> Growth {
    let spec = VmSpec {
        vcpus: 1,
        max_vcpus: 1,
        memory_mib,
        max_memory_mib,
        extra_cmdline: String::new(),
        verbose_console: false,
        jail: JailSpec { ids: Vec::new() },
        fds: Vec::new(),
        disks: Vec::new(),
    };
    let layout = Layout::new(memory_mib).growing_to(max_memory_mib);
    let memory = crate::memory::ram::reserve(&layout).unwrap();
    let pool = layout.hotplug().map(|room| Pool::new(room, memory, Box::new(NoSlots)));
    Growth::with(&spec, pool)
}

/// Resizes; returns how often a device was plugged.
fn resize(growth: &mut Growth, mib: u32) -> Result<usize, MachineError> {
    let mut plugged = 0;
    growth.resize(mib, |_| {
        plugged += 1;
        Ok(1)
    })?;
    Ok(plugged)
}

#[test]
fn a_machine_that_has_its_most_needs_no_device() {
    let mut growth = growth(256, 256);
    assert_eq!(resize(&mut growth, 256).unwrap(), 0);
    assert_eq!(resize(&mut growth, 1).unwrap(), 0);
    let error = resize(&mut growth, 257).unwrap_err();
    assert_eq!(
        error.to_string(),
        "257 MiB of memory are more than the 256 MiB that this machine can have"
    );
}

#[test]
fn the_device_comes_when_it_is_needed_first() {
    let mut growth = growth(256, 1024);
    assert_eq!(growth.state().requested_mib, 256);
    assert_eq!(resize(&mut growth, 100).unwrap(), 0);
    assert_eq!(resize(&mut growth, 512).unwrap(), 1);
    assert_eq!(resize(&mut growth, 1024).unwrap(), 0);
    let expected = MemoryState {
        boot_mib: 256,
        plugged_mib: 0,
        requested_mib: 1024,
        max_mib: 1024,
    };
    assert_eq!(growth.state(), expected);
}

#[test]
fn a_size_is_rounded_up_to_blocks_and_is_never_less_than_at_boot() {
    let mut growth = growth(256, 1023);
    for (wanted, requested) in [(257, 258), (258, 258), (1023, 1024), (255, 256), (0, 256)] {
        resize(&mut growth, wanted).unwrap();
        assert_eq!(growth.state().requested_mib, requested, "{wanted}");
    }
    assert!(resize(&mut growth, 1024).is_err());
}

#[test]
fn a_device_that_cannot_be_plugged_leaves_the_size_as_it_was() {
    let mut growth = growth(256, 1024);
    let full = |_| Err(crate::pci::BusError::Full.into());
    assert!(growth.resize(512, full).is_err());
    assert_eq!(growth.state().requested_mib, 256);
    assert_eq!(resize(&mut growth, 512).unwrap(), 1);
}
