//! What the guest's CPUID instruction answers: what KVM supports on this host, minus what a pod must not have, plus topology.

use std::arch::x86_64::__cpuid;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use thiserror::Error;

/// Leaf 1, ECX.
mod features {
    pub const VMX: u32 = 1 << 5;
    pub const X2APIC: u32 = 1 << 21;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const HYPERVISOR: u32 = 1 << 31;
    /// Leaf 1, EDX: more than one logical processor in the package.
    pub const HTT: u32 = 1 << 28;
    /// Leaf 0x8000_0001, ECX.
    pub const SVM: u32 = 1 << 2;
    /// Leaf 0x8000_0001, ECX: AMD's extended performance counters of core, north bridge and last-level cache.
    pub const PERFORMANCE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
    /// Leaf 1, ECX: Intel's description of its performance counters.
    pub const PDCM: u32 = 1 << 15;
}

/// CLFLUSH line size in units of 8 bytes.
const CLFLUSH_LINE: u32 = 8;

/// Frequency of KVM's local APIC timer, in kHz: its bus cycle is one nanosecond.
const LOCAL_APIC_KHZ: u32 = 1_000_000;

/// Hypervisor leaves: the first one names the last one; the timing leaf tells TSC and APIC frequencies.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const TIMING_LEAF: u32 = 0x4000_0010;

/// Leaf whose EAX tells in its low byte how many bits a physical address has, and that number where there is no such leaf.
const ADDRESS_LEAF: u32 = 0x8000_0008;
const DEFAULT_ADDRESS_BITS: u32 = 36;

/// The processor's name.
const BRAND_LEAVES: [u32; 3] = [0x8000_0002, 0x8000_0003, 0x8000_0004];

/// More entries than KVM takes.
#[derive(Debug, Error)]
#[error("the CPU feature table has too many entries")]
pub struct TooManyEntries;

/// What one machine's CPUs have in common.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// How many there can be.
    pub vcpus: u8,
    /// KVM's local APIC knows the TSC deadline mode.
    pub tsc_deadline: bool,
    /// TSC frequency in kHz, if KVM tells.
    pub tsc_khz: Option<u32>,
}

/// The table of vCPU `id`: one package, every vCPU a core of one thread.
pub fn for_vcpu(supported: &CpuId, topology: Topology, id: u8) -> Result<CpuId, TooManyEntries> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        // Topology and name are written anew; a pod has no performance counters and no cache or memory allocation.
        .filter(|entry| {
            !matches!(
                entry.function,
                0x0b | 0x1f | 0x0a | 0x0f | 0x10 | 0x8000_0002..=0x8000_0004 | 0x8000_0022 | TIMING_LEAF
            )
        })
        .copied()
        .collect();
    for entry in &mut entries {
        adjust(entry, topology, id);
    }
    let apic_id = u32::from(id);
    let package_shift = shift_for(topology.vcpus);
    let (smt, core) = (1, 2);
    entries.push(topology_leaf(0, 0, 1, smt, apic_id));
    entries.push(topology_leaf(1, package_shift, topology.vcpus.into(), core, apic_id));
    entries.push(topology_leaf(2, 0, 0, 0, apic_id));
    if let Some(khz) = topology.tsc_khz {
        entries.push(kvm_cpuid_entry2 {
            function: TIMING_LEAF,
            eax: khz,
            ebx: LOCAL_APIC_KHZ,
            ..Default::default()
        });
    }
    entries.extend(BRAND_LEAVES.map(brand_leaf));
    CpuId::from_entries(&entries).map_err(|_| TooManyEntries)
}

/// How many bits a physical address has for the guest.
pub fn physical_address_bits(supported: &CpuId) -> u32 {
    let leaf = supported.as_slice().iter().find(|entry| entry.function == ADDRESS_LEAF);
    leaf.map_or(DEFAULT_ADDRESS_BITS, |leaf| leaf.eax & 0xff)
}

/// A part of the processor's name, which KVM leaves to its user: the host's.
fn brand_leaf(function: u32) -> kvm_cpuid_entry2 {
    let host = __cpuid(function);
    kvm_cpuid_entry2 {
        function,
        eax: host.eax,
        ebx: host.ebx,
        ecx: host.ecx,
        edx: host.edx,
        ..Default::default()
    }
}

/// How many bits of the APIC id number the cores of the package.
fn shift_for(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

/// One level of leaf 0x0b.
fn topology_leaf(index: u32, shift: u32, processors: u32, level: u32, apic_id: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: 0x0b,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: index | level << 8,
        edx: apic_id,
        ..Default::default()
    }
}

fn adjust(entry: &mut kvm_cpuid_entry2, topology: Topology, id: u8) {
    let vcpus = u32::from(topology.vcpus);
    match entry.function {
        0x0 => entry.eax = entry.eax.max(0x0b),
        0x1 => {
            entry.ebx = u32::from(id) << 24 | vcpus.min(255) << 16 | CLFLUSH_LINE << 8 | entry.ebx & 0xff;
            entry.ecx &= !(features::VMX | features::TSC_DEADLINE | features::PDCM);
            entry.ecx |= features::HYPERVISOR | features::X2APIC;
            if topology.tsc_deadline {
                entry.ecx |= features::TSC_DEADLINE;
            }
            entry.edx = if vcpus > 1 {
                entry.edx | features::HTT
            } else {
                entry.edx & !features::HTT
            };
        }
        // Intel's caches: levels 1 and 2 belong to one core, level 3 to the package.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 {
                (1 << shift_for(topology.vcpus)) - 1
            } else {
                0
            };
            let cores = (1u32 << shift_for(topology.vcpus)) - 1;
            entry.eax = entry.eax & 0x3fff | sharing << 14 | cores.min(0x3f) << 26;
        }
        HYPERVISOR_LEAF if topology.tsc_khz.is_some() => entry.eax = entry.eax.max(TIMING_LEAF),
        0x8000_0001 => entry.ecx &= !(features::SVM | features::PERFORMANCE_COUNTERS),
        ADDRESS_LEAF => entry.ecx = (vcpus - 1).min(0xff) | shift_for(topology.vcpus) << 12,
        // Nested virtualization of AMD.
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD's caches, like Intel's above.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { vcpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        // AMD's topology: APIC id, core id with one thread, node 0.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id.into(), id.into(), 0),
        _ => {}
    }
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod cpuid_test;
