use bulkhead_vmm_control::JailSpec;

use super::*;

fn spec(vcpus: [u8; 2], memory_mib: [u32; 2]) -> VmSpec {
    VmSpec {
        vcpus: vcpus[0],
        max_vcpus: vcpus[1],
        memory_mib: memory_mib[0],
        max_memory_mib: memory_mib[1],
        extra_cmdline: String::new(),
        verbose_console: false,
        jail: JailSpec { ids: Vec::new() },
        fds: Vec::new(),
        disks: Vec::new(),
    }
}

#[test]
fn a_size_has_a_least_and_a_most() {
    for (vcpus, memory) in [([1, 1], [64, 64]), ([2, 128], [256, u32::MAX])] {
        check_size(&spec(vcpus, memory)).unwrap();
    }
    for (vcpus, memory) in [
        ([0, 1], [64, 64]),
        ([2, 1], [64, 64]),
        ([1, 129], [64, 64]),
        ([1, 1], [63, 64]),
        ([1, 1], [65, 64]),
    ] {
        assert!(check_size(&spec(vcpus, memory)).is_err(), "{vcpus:?} {memory:?}");
    }
}

#[test]
fn all_memory_lies_where_the_guest_can_address_it() {
    // 4 GiB below the region, and 32 GiB of region.
    let spec = spec([1, 1], [1024, 33 * 1024]);
    let layout = Layout::new(spec.memory_mib).growing_to(spec.max_memory_mib);
    assert_eq!(layout.end(), 36 << 30);
    check_width(&spec, &layout, 36).unwrap();
    let error = check_width(&spec, &layout, 35).unwrap_err();
    assert_eq!(
        error.to_string(),
        "up to 33792 MiB of memory end at the guest-physical address 0x900000000, beyond the 35 bits that addresses have on this host"
    );
    let whole = Layout::new(1024).growing_to(1024 + 60 * 1024);
    assert_eq!(whole.end(), 1 << 36);
    check_width(&spec, &whole, 36).unwrap();
}
