use super::*;

fn supported() -> CpuId {
    let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    CpuId::from_entries(&[
        leaf(0, 0xd, 0, 0, 0),
        leaf(1, 0, 0x1234, features::VMX, 0),
        leaf(0xa, 7, 7, 7, 7),
        leaf(0xb, 9, 9, 9, 9),
        leaf(HYPERVISOR_LEAF, 0x4000_0001, 0, 0, 0),
        leaf(0x8000_0001, 0, 0, features::SVM | 1, 0),
        leaf(ADDRESS_LEAF, 0x0000_302e, 0, 0, 0),
    ])
    .unwrap()
}

fn find(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
    let mut found = table
        .as_slice()
        .iter()
        .filter(|entry| entry.function == function && entry.index == index);
    let entry = *found.next().unwrap();
    assert!(found.next().is_none(), "leaf {function:#x} twice");
    entry
}

#[test]
fn a_guest_sees_no_nested_virtualization_and_no_performance_counters() {
    let topology = Topology {
        vcpus: 1,
        tsc_deadline: true,
        tsc_khz: None,
    };
    let table = for_vcpu(&supported(), topology, 0).unwrap();
    assert_eq!(find(&table, 1, 0).ecx & features::VMX, 0);
    assert_eq!(find(&table, 0x8000_0001, 0).ecx, 1);
    assert!(table.as_slice().iter().all(|entry| entry.function != 0xa));
}

#[test]
fn each_vcpu_has_its_own_id_in_one_package() {
    let topology = Topology {
        vcpus: 3,
        tsc_deadline: false,
        tsc_khz: Some(2_000_000),
    };
    let table = for_vcpu(&supported(), topology, 2).unwrap();
    let one = find(&table, 1, 0);
    assert_eq!(one.ebx, 2 << 24 | 3 << 16 | 8 << 8 | 0x34);
    assert_eq!(one.ecx & features::TSC_DEADLINE, 0);
    assert_ne!(one.edx & features::HTT, 0);
    assert_eq!((find(&table, 0xb, 0).eax, find(&table, 0xb, 0).ebx), (0, 1));
    assert_eq!((find(&table, 0xb, 1).eax, find(&table, 0xb, 1).ebx), (2, 3));
    assert_eq!(find(&table, 0xb, 1).edx, 2);
    assert_eq!(find(&table, TIMING_LEAF, 0).eax, 2_000_000);
    assert_eq!(find(&table, HYPERVISOR_LEAF, 0).eax, TIMING_LEAF);
}

#[test]
fn the_processor_has_the_hosts_name() {
    let topology = Topology {
        vcpus: 1,
        tsc_deadline: true,
        tsc_khz: None,
    };
    let table = for_vcpu(&supported(), topology, 0).unwrap();
    let name: Vec<u8> = BRAND_LEAVES
        .iter()
        .flat_map(|leaf| {
            let part = find(&table, *leaf, 0);
            [part.eax, part.ebx, part.ecx, part.edx].map(u32::to_le_bytes)
        })
        .flatten()
        .collect();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = cpuinfo.lines().find(|line| line.starts_with("model name")).unwrap();
    let name = String::from_utf8(name).unwrap();
    assert_eq!(name.trim_matches(['\0', ' ']), line.split_once(": ").unwrap().1.trim());
}

#[test]
fn the_width_of_a_physical_address_is_the_guests() {
    assert_eq!(physical_address_bits(&supported()), 46);
    let table = for_vcpu(
        &supported(),
        Topology {
            vcpus: 4,
            tsc_deadline: true,
            tsc_khz: None,
        },
        0,
    );
    assert_eq!(find(&table.unwrap(), ADDRESS_LEAF, 0).eax & 0xff, 46);
    assert_eq!(physical_address_bits(&CpuId::from_entries(&[]).unwrap()), 36);
}
