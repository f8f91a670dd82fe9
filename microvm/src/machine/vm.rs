//! The KVM virtual machine: memory slots, interrupts and doorbells, each ioctl wrapped once.
//!
//! Unsafe, because KVM is handed addresses of this process.
#![allow(unsafe_code)]

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    CpuId, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
    kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::memory::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use crate::memory::read_only::ReadOnlyPages;
use crate::virtio::device::GuestMemory;

/// The only version there is.
const API_VERSION: i32 = 12;

/// An ioctl failed.
#[derive(Debug, Error)]
pub enum VmError {
    /// Not /dev/kvm, or one from another age.
    #[error("the kvm descriptor answers API version {0}, expected {API_VERSION}")]
    ApiVersion(i32),
    /// The host's KVM lacks something.
    #[error("this host's KVM lacks {0}")]
    Missing(&'static str),
    /// More pieces of memory than KVM manages.
    #[error("the guest's memory would need {needed} memory slots, this host's KVM has {available}")]
    Slots {
        /// What is asked for, and what is in use.
        needed: usize,
        /// KVM_CAP_NR_MEMSLOTS.
        available: usize,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Ioctl {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: errno::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(errno::Error) -> VmError {
    move |source| VmError::Ioctl { what, source }
}

/// A virtual machine without vCPUs.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    supported_cpuid: CpuId,
    has_tsc_deadline: bool,
    max_slots: usize,
    next_slot: AtomicU32,
}

impl Vm {
    /// Makes a machine with its interrupt controllers on the given /dev/kvm.
    pub fn new(kvm: OwnedFd) -> Result<Vm, VmError> {
        // SAFETY: the descriptor is owned and given away here, so `Kvm` is its only owner.
        let kvm: Kvm = unsafe { std::os::fd::FromRawFd::from_raw_fd(kvm.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(VmError::ApiVersion(version));
        }
        let needed = [
            (Cap::ReadonlyMem, "read-only memory (KVM_CAP_READONLY_MEM)"),
            (Cap::Irqchip, "interrupt controllers (KVM_CAP_IRQCHIP)"),
            (Cap::Ioeventfd, "doorbells (KVM_CAP_IOEVENTFD)"),
            (Cap::SignalMsi, "message-signalled interrupts (KVM_CAP_SIGNAL_MSI)"),
            (Cap::ImmediateExit, "immediate exits (KVM_CAP_IMMEDIATE_EXIT)"),
        ];
        for (capability, name) in needed {
            if !kvm.check_extension(capability) {
                return Err(VmError::Missing(name));
            }
        }
        let fd = kvm
            .create_vm()
            .map_err(refused("create a virtual machine (KVM_CREATE_VM)"))?;
        fd.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(refused("place KVM's identity map"))?;
        fd.set_tss_address(KVM_TSS)
            .map_err(refused("place KVM's task state segment"))?;
        fd.create_irq_chip()
            .map_err(refused("create the interrupt controllers"))?;
        // Where KVM cannot leave them out, the CPU features below still hide the performance counters.
        let counters_can_be_off = fd.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
        if counters_can_be_off & KVM_PMU_CAP_DISABLE as i32 != 0 {
            let off = kvm_enable_cap {
                cap: KVM_CAP_PMU_CAPABILITY,
                args: [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0],
                ..Default::default()
            };
            fd.enable_cap(&off)
                .map_err(refused("switch performance counters off (KVM_CAP_PMU_CAPABILITY)"))?;
        }
        let supported_cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("read the supported CPU features"))?;
        let has_tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        let max_slots = kvm.get_nr_memslots();
        Ok(Vm {
            fd,
            supported_cpuid,
            has_tsc_deadline,
            max_slots,
            next_slot: AtomicU32::new(0),
        })
    }

    /// What KVM can show a vCPU.
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.supported_cpuid
    }

    /// Whether KVM's local APIC has the TSC deadline mode.
    pub fn has_tsc_deadline(&self) -> bool {
        self.has_tsc_deadline
    }

    /// Makes vCPU number `id`.
    pub fn create_vcpu(&self, id: u8) -> Result<VcpuFd, VmError> {
        self.fd.create_vcpu(id.into()).map_err(refused("create a vCPU"))
    }

    /// Gives the guest its RAM. `memory` must outlive the machine: the caller keeps it in the same struct, declared later.
    pub fn add_ram(&self, memory: &GuestMemory) -> Result<(), VmError> {
        for region in memory.ram() {
            self.add_region(self.take_slots(1)?, region)?;
        }
        Ok(())
    }

    /// Gives the guest a part of its memory in a slot of `take_slots` that has none. It must outlive the machine, as with `add_ram`.
    pub fn add_region(&self, slot: u32, region: &GuestRegionMmap<()>) -> Result<(), VmError> {
        self.set_memory(slot, region.start_addr(), region.len(), region.as_ptr() as u64, 0)
    }

    /// Takes the memory of a slot from the guest.
    pub fn remove_region(&self, slot: u32, region: &GuestRegionMmap<()>) -> Result<(), VmError> {
        self.set_memory(slot, region.start_addr(), 0, region.as_ptr() as u64, 0)
    }

    /// Shows the guest pages that it cannot write. `pages` must outlive the machine, as with `add_ram`.
    pub fn add_read_only(&self, at: GuestAddress, pages: &ReadOnlyPages) -> Result<(), VmError> {
        let slot = self.take_slots(1)?;
        self.set_memory(slot, at, pages.len() as u64, pages.host_address(), KVM_MEM_READONLY)
    }

    /// Main thread: the first of `count` memory slots that nobody else uses.
    pub fn take_slots(&self, count: usize) -> Result<u32, VmError> {
        let taken = self.next_slot.load(Ordering::Relaxed) as usize;
        let needed = taken.saturating_add(count);
        if needed > self.max_slots {
            return Err(VmError::Slots {
                needed,
                available: self.max_slots,
            });
        }
        Ok(self.next_slot.fetch_add(count as u32, Ordering::Relaxed))
    }

    fn set_memory(&self, slot: u32, at: GuestAddress, length: u64, host: u64, flags: u32) -> Result<(), VmError> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: at.0,
            memory_size: length,
            userspace_addr: host,
        };
        // SAFETY: the range is a part of a live mapping of this process that outlives the machine (see the callers' contracts). KVM
        // refuses to put other memory into a slot that has some.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(refused("change the memory of the guest"))
    }

    /// From now on a guest write to `address` makes `event` readable, without an exit.
    pub fn add_doorbell(&self, event: &EventFd, address: u64) -> Result<(), VmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(refused("register a queue's doorbell"))
    }

    /// Undoes `add_doorbell`.
    pub fn remove_doorbell(&self, event: &EventFd, address: u64) -> Result<(), VmError> {
        self.fd
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(refused("unregister a queue's doorbell"))
    }

    /// From now on, writing to `event` raises interrupt line `line`.
    pub fn add_interrupt_line(&self, event: &EventFd, line: u32) -> Result<(), VmError> {
        self.fd
            .register_irqfd(event, line)
            .map_err(refused("register an interrupt line"))
    }

    /// Sends a message-signalled interrupt.
    pub fn send_msi(&self, address: u64, data: u32) -> Result<(), VmError> {
        let message = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        // A guest with the target's APIC disabled answers 0, which is no error of ours.
        self.fd
            .signal_msi(message)
            .map(drop)
            .map_err(refused("signal an interrupt (KVM_SIGNAL_MSI)"))
    }
}
