use bulkhead_vmm_control::{DiskSpec, JailSpec};

use super::*;

fn spec(fds: &[BootFd], disks: usize) -> VmSpec {
    let disk = |n: usize| DiskSpec {
        id: n.to_string(),
        read_only: false,
    };
    VmSpec {
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 64,
        max_memory_mib: 64,
        extra_cmdline: String::new(),
        verbose_console: false,
        jail: JailSpec { ids: Vec::new() },
        fds: fds.to_vec(),
        disks: (0..disks).map(disk).collect(),
    }
}

fn descriptors(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
}

const NEEDED: [BootFd; 4] = [BootFd::Share, BootFd::Kvm, BootFd::AgentImage, BootFd::Kernel];

#[test]
fn descriptors_are_sorted_in_any_order() {
    let kinds = [&NEEDED[..], &[BootFd::Disk, BootFd::ConsoleLog, BootFd::Disk]].concat();
    let sorted = BootFds::sort(&spec(&kinds, 2), descriptors(7)).unwrap();
    assert_eq!(sorted.disks.len(), 2);
    assert!(sorted.network.is_none() && sorted.console_log.is_some());
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    let sort = |kinds: &[BootFd], disks, brought| BootFds::sort(&spec(kinds, disks), descriptors(brought)).unwrap_err();
    assert_eq!(sort(&NEEDED, 0, 3), BootFdsError::Count { named: 4, brought: 3 });
    assert_eq!(sort(&NEEDED[..3], 0, 3), BootFdsError::Missing("a kernel"));
    assert_eq!(sort(&NEEDED, 1, 4), BootFdsError::Disks { specs: 1, brought: 0 });
    assert_eq!(
        sort(&[BootFd::Kvm, BootFd::Kvm], 0, 2),
        BootFdsError::Twice(BootFd::Kvm)
    );
}
