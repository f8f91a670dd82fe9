//! The state a vCPU starts in: 64-bit mode with an identity map, as the Linux boot protocol asks for (boot.rst, 64-bit).

use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::errno;

use crate::memory::PAGE_SIZE;
use crate::memory::layout::{GDT, IDT, PAGE_TABLES, ZERO_PAGE};
use crate::virtio::device::GuestMemory;

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Selectors of the boot protocol: __BOOT_CS and __BOOT_DS.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Their descriptors: flat, 64-bit code and writable data.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// x87 and SSE control words after a reset.
const FPU_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

/// Why a vCPU could not be prepared.
#[derive(Debug, Error)]
pub enum RegistersError {
    /// Tables do not fit.
    #[error("cannot write the first page tables into guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
    /// An ioctl failed.
    #[error("cannot set the {what} of a vCPU: {source}")]
    Ioctl {
        /// Which state.
        what: &'static str,
        /// The system's answer.
        source: errno::Error,
    },
}

/// Writes descriptor table and page tables (first GiB, identity); returns how many bytes that were.
pub fn write_tables(memory: &GuestMemory) -> Result<u64, RegistersError> {
    let descriptors = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR];
    for (at, descriptor) in (GDT.0..).step_by(8).zip(descriptors) {
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    let directory_pointers = PAGE_TABLES.0 + PAGE_SIZE;
    let directory = directory_pointers + PAGE_SIZE;
    memory.write_obj(directory_pointers | PAGE_PRESENT_WRITABLE, PAGE_TABLES)?;
    memory.write_obj(directory | PAGE_PRESENT_WRITABLE, GuestAddress(directory_pointers))?;
    let entries: Vec<u8> = (0..PAGE_SIZE / 8)
        .flat_map(|index| ((index * LARGE_PAGE) | PAGE_PRESENT_WRITABLE | PAGE_LARGE).to_le_bytes())
        .collect();
    memory.write_slice(&entries, GuestAddress(directory))?;
    Ok((descriptors.len() as u64 + 2) * 8 + PAGE_SIZE)
}

/// Sets what all vCPUs have in common.
pub fn set_common(vcpu: &VcpuFd) -> Result<(), RegistersError> {
    let msrs = [
        kvm_msr_entry {
            index: MSR_MISC_ENABLE,
            data: MISC_ENABLE_FAST_STRING,
            ..Default::default()
        },
        kvm_msr_entry {
            index: MSR_MTRR_DEFAULT,
            data: MTRR_ENABLED_WRITE_BACK,
            ..Default::default()
        },
    ];
    let refuse = refused("model-specific registers");
    let msrs = Msrs::from_entries(&msrs).map_err(|_| refuse(errno::Error::new(nix::libc::E2BIG)))?;
    vcpu.set_msrs(&msrs).map_err(refuse)?;
    let fpu = kvm_fpu {
        fcw: FPU_CONTROL,
        mxcsr: SSE_CONTROL,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(refused("floating-point state"))
}

/// Sets the first vCPU to the kernel's entry point. The others wait for its startup interrupt.
pub fn set_boot(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), RegistersError> {
    let mut special = vcpu.get_sregs().map_err(refused("special registers"))?;
    let data = segment(DATA_SELECTOR, DATA_DESCRIPTOR);
    special.cs = segment(CODE_SELECTOR, CODE_DESCRIPTOR);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.gdt = kvm_dtable {
        base: GDT.0,
        limit: 4 * 8 - 1,
        ..Default::default()
    };
    special.idt = kvm_dtable {
        base: IDT.0,
        limit: 8 - 1,
        ..Default::default()
    };
    special.cr0 = CR0_PROTECTED | CR0_EXTENSION | CR0_PAGING;
    special.cr3 = PAGE_TABLES.0;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LONG_MODE;
    vcpu.set_sregs(&special).map_err(refused("special registers"))?;
    let general = kvm_regs {
        rip: entry.0,
        rsi: ZERO_PAGE.0,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    vcpu.set_regs(&general).map_err(refused("general registers"))
}

/// Unpacks a descriptor into KVM's form.
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bits = |from: u32, count: u32| (descriptor >> from & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..Default::default()
    }
}

fn refused(what: &'static str) -> impl Fn(errno::Error) -> RegistersError {
    move |source| RegistersError::Ioctl { what, source }
}
