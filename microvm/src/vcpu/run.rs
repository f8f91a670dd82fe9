//! The loop of one vCPU thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::{VcpuExit, VcpuFd};
use thiserror::Error;
use vm_memory::GuestAddress;
use vmm_sys_util::errno;

use super::counters::{ExitCounters, ExitKind};
use super::gate::Gate;
use super::{cpuid, registers};
use crate::machine::io::{Io, PowerEvent};
use crate::machine::stop::{StopCause, StopSignal};
use crate::machine::vm::{Vm, VmError};

/// Why a vCPU could not be made.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// KVM refused to make it.
    #[error(transparent)]
    Create(#[from] VmError),
    /// Its features could not be set.
    #[error("cannot set the features of a vCPU: {0}")]
    Features(#[source] errno::Error),
    /// The table is too large.
    #[error(transparent)]
    Table(#[from] cpuid::TooManyEntries),
    /// Its registers could not be set.
    #[error(transparent)]
    Registers(#[from] registers::RegistersError),
}

/// A vCPU that has not run yet.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u8,
}

impl Vcpu {
    /// Makes vCPU `id` of as many as `vcpus`; number 0 starts at `entry`, the others wait until the guest wakes them.
    pub fn new(vm: &Vm, id: u8, vcpus: u8, entry: GuestAddress) -> Result<Vcpu, VcpuError> {
        let fd = vm.create_vcpu(id)?;
        let topology = cpuid::Topology {
            vcpus,
            tsc_deadline: vm.has_tsc_deadline(),
            tsc_khz: fd.get_tsc_khz().ok(),
        };
        let table = cpuid::for_vcpu(vm.supported_cpuid(), topology, id)?;
        fd.set_cpuid2(&table).map_err(VcpuError::Features)?;
        registers::set_common(&fd)?;
        if id == 0 {
            registers::set_boot(&fd, entry)?;
        }
        Ok(Vcpu { fd, id })
    }

    /// Its number, which is its APIC id.
    pub fn id(&self) -> u8 {
        self.id
    }
}

/// Runs a vCPU until the machine stops. `stopping` is set, or `gate` closed, before the thread is interrupted by a signal. Returns where
/// the vCPU was when it was interrupted, for the report on a guest that did not answer.
pub fn run(
    mut vcpu: Vcpu,
    io: Arc<Io>,
    stop: Arc<StopSignal>,
    stopping: Arc<AtomicBool>,
    gate: Arc<Gate>,
    counters: Arc<ExitCounters>,
) -> String {
    while !stopping.load(Ordering::Acquire) {
        gate.pass();
        let event = match vcpu.fd.run() {
            Ok(exit) => handle(exit, &io, &counters),
            Err(error) if matches!(error.errno(), nix::libc::EINTR | nix::libc::EAGAIN) => continue,
            Err(error) => Some(StopCause::Failed(format!("vCPU {} cannot run: {error}", vcpu.id))),
        };
        if let Some(cause) = event {
            let cause = match cause {
                StopCause::Failed(message) => StopCause::Failed(format!("{message}; {}", describe(&vcpu))),
                other => other,
            };
            stop.stop(cause);
            break;
        }
    }
    describe(&vcpu)
}

fn handle(exit: VcpuExit<'_>, io: &Io, counters: &ExitCounters) -> Option<StopCause> {
    let kind = match &exit {
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => ExitKind::Io,
        VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => ExitKind::Mmio,
        _ => ExitKind::Other,
    };
    counters.count(kind);
    match exit {
        VcpuExit::IoIn(port, data) => io.port_read(port, data),
        VcpuExit::IoOut(port, data) => {
            return io.port_write(port, data).map(|event| match event {
                PowerEvent::Off => StopCause::PoweredOff,
                PowerEvent::Reset => StopCause::Reset,
            });
        }
        VcpuExit::MmioRead(address, data) => io.memory_read(address, data),
        VcpuExit::MmioWrite(address, data) => io.memory_write(address, data),
        // A triple fault.
        VcpuExit::Shutdown => return Some(StopCause::Reset),
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {}
        other => return Some(StopCause::Failed(format!("the vCPU stopped: {other:?}"))),
    }
    None
}

/// Where a vCPU is, for the report of a failure.
fn describe(vcpu: &Vcpu) -> String {
    match (vcpu.fd.get_regs(), vcpu.fd.get_sregs()) {
        (Ok(general), Ok(special)) => {
            format!(
                "vCPU {} at {:#x}, stack {:#x}, flags {:#x}, cr2 {:#x}",
                vcpu.id, general.rip, general.rsp, general.rflags, special.cr2
            )
        }
        _ => format!("vCPU {}, registers unreadable", vcpu.id),
    }
}
