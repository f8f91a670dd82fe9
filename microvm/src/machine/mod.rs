//! One machine: everything that has to be there before the first instruction, put together, run, and taken apart.

pub mod io;
pub mod stop;
pub mod vm;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_vmm_control::{Counters, DiskSpec, VmSpec};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use self::io::Io;
use self::stop::StopSignal;
use self::vm::{Vm, VmError};
use crate::boot::{acpi, cmdline, elf, params};
use crate::file_server::{Alarm, Crowd, FileServer, Owners, PlaceError};
use crate::interrupts::Line;
use crate::jail::{SpawnError, ThreadKind, spawn_worker};
use crate::memory::layout::{self, Layout};
use crate::memory::ram::{self, RamError};
use crate::memory::read_only::{PublishedPages, ReadOnlyError, ReadOnlyPages};
use crate::pci::{BusError, PciBus};
use crate::serial::{ConsoleRing, ConsoleWriter, SerialPort};
use crate::sync::lock;
use crate::vcpu::counters::ExitCounters;
use crate::vcpu::{self, Vcpu, VcpuError, registers};
use crate::virtio::blk::{BlkDevice, Disk, DiskError};
use crate::virtio::device::{GuestMemory, VirtioDevice};
use crate::virtio::fs::FsDevice;
use crate::virtio::rng::{RngDevice, random};
use crate::virtio::transport::{TransportError, VirtioFunction};
use crate::virtio::vsock::{VsockDevice, VsockHandle};

/// The guest's vsock address; each machine has its own device, so every guest can have the same.
const GUEST_CID: u64 = 3;

/// Tag of the share, as the agent mounts it.
const SHARE_TAG: &str = "share";

/// Pause between two signals to a vCPU that has not stopped yet.
const KICK_INTERVAL: Duration = Duration::from_millis(2);

/// Limits of a machine.
const VCPUS: std::ops::RangeInclusive<u8> = 1..=128;
const MIN_MEMORY_MIB: u32 = 64;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The request is out of bounds.
    #[error(
        "a machine of {vcpus} vCPUs and {memory_mib} MiB is impossible: 1 to 128 vCPUs, at least {MIN_MEMORY_MIB} MiB"
    )]
    Size {
        /// Asked for.
        vcpus: u8,
        /// Asked for.
        memory_mib: u32,
    },
    /// KVM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Agent image.
    #[error("agent image: {0}")]
    AgentImage(#[source] ReadOnlyError),
    /// PCI configuration space.
    #[error("PCI configuration space: {0}")]
    Ecam(#[source] ReadOnlyError),
    /// Kernel.
    #[error(transparent)]
    Kernel(#[from] elf::KernelError),
    /// Command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::CmdlineError),
    /// Boot parameters.
    #[error(transparent)]
    Params(#[from] params::ParamsError),
    /// Tables.
    #[error(transparent)]
    Acpi(#[from] acpi::AcpiError),
    /// Start state.
    #[error(transparent)]
    Registers(#[from] registers::RegistersError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device.
    #[error("device {device}: {reason}")]
    Device {
        /// Which.
        device: &'static str,
        /// Why.
        reason: String,
    },
    /// A device on the bus.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A name that is taken.
    #[error("disk {0}: there is one of this name already")]
    DiskExists(String),
    /// A name that is unknown.
    #[error("disk {0}: there is no such disk")]
    NoSuchDisk(String),
    /// Owners of files.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Something small of the system's.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |source| MachineError::System { what, source }
}

/// What a machine is built from; the process is in its jail already.
pub struct Parts {
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// vmlinux.
    pub kernel: File,
    /// The agent's file-system image.
    pub agent_image: File,
    /// Disks, in the order of `VmSpec::disks`.
    pub disks: Vec<File>,
    /// Where console output goes.
    pub console_log: Option<File>,
    /// This process's /proc/self/fd, for the file server.
    pub descriptors: OwnedFd,
}

/// A machine. The main thread owns it.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    stopped_at: Arc<Mutex<Vec<String>>>,
    stop: Arc<StopSignal>,
    counters: Arc<ExitCounters>,
    bytes_copied: u64,
    console: ConsoleRing,
    vsock: VsockHandle,
    disks: Vec<(String, u8)>,
    owners: Arc<Owners>,
    crowd: Arc<Crowd>,
    vm: Arc<Vm>,
    // What KVM maps, the bus's pages among it; outlives `vm`, because fields drop in this order.
    io: Arc<Io>,
    bus: Arc<PciBus>,
    _agent_image: ReadOnlyPages,
    memory: GuestMemory,
}

impl Machine {
    /// Builds a machine; nothing runs yet.
    pub fn build(spec: &VmSpec, parts: Parts) -> Result<Machine, MachineError> {
        if !VCPUS.contains(&spec.vcpus) || spec.memory_mib < MIN_MEMORY_MIB {
            return Err(MachineError::Size {
                vcpus: spec.vcpus,
                memory_mib: spec.memory_mib,
            });
        }
        // Here and not later, because the main thread's policy does not let it install handlers.
        register_signal_handler(SIGRTMIN(), on_kick)
            .map_err(|error| system("install a signal handler")(error.into()))?;
        let layout = Layout::new(spec.memory_mib);
        let memory = ram::reserve(&layout)?;
        let agent_image =
            ReadOnlyPages::of_file(&parts.agent_image, layout::AGENT_IMAGE_ALIGN, layout::AGENT_IMAGE_MAX)
                .map_err(MachineError::AgentImage)?;
        let kernel = elf::load(&memory, &parts.kernel)?;
        let bytes_copied = kernel.bytes_copied + prepare_guest(&memory, &layout, spec, agent_image.len() as u64)?;

        let vm = Arc::new(Vm::new(parts.kvm)?);
        let ecam = PublishedPages::new(layout::PCI_ECAM_SIZE as usize).map_err(MachineError::Ecam)?;
        vm.add_ram(&memory)?;
        vm.add_read_only(layout::AGENT_IMAGE, &agent_image)?;
        vm.add_read_only(vm_memory::GuestAddress(layout::PCI_ECAM), ecam.pages())?;
        let bus = Arc::new(PciBus::new(ecam));
        let console = ConsoleRing::new();
        let writer = ConsoleWriter::new(console.clone(), parts.console_log);
        let serial = SerialPort::new(Line::new(interrupt_line(&vm, layout::SERIAL_IRQ)?), writer);
        let io = Arc::new(Io::new(serial, bus.clone()));
        let vcpus: Result<Vec<Vcpu>, VcpuError> = (0..spec.vcpus)
            .map(|id| Vcpu::new(&vm, id, spec.vcpus, kernel.entry))
            .collect();

        let (vsock_device, vsock) = VsockDevice::new(GUEST_CID).map_err(device("vsock"))?;
        let stop = EventFd::new(EFD_NONBLOCK).map_err(system("make an event"))?;
        let mut machine = Machine {
            vcpus: vcpus?,
            threads: Vec::new(),
            stopping: Arc::default(),
            stopped_at: Arc::default(),
            stop: Arc::new(StopSignal::new(stop)),
            counters: Arc::default(),
            bytes_copied,
            console,
            vsock,
            disks: Vec::new(),
            owners: Arc::new(Owners::new(&spec.jail.ids)),
            crowd: Arc::default(),
            vm,
            io,
            bus,
            _agent_image: agent_image,
            memory,
        };
        machine.plug(Box::new(vsock_device))?;
        let (owners, crowd) = (machine.owners.clone(), machine.crowd.clone());
        let share = FileServer::new("/", parts.descriptors, owners, crowd).map_err(device("fs"))?;
        machine.plug(Box::new(FsDevice::new(SHARE_TAG, share).map_err(device("fs"))?))?;
        machine.plug(Box::new(RngDevice::new()))?;
        for (disk, file) in spec.disks.iter().zip(parts.disks) {
            machine.attach_disk(disk, file)?;
        }
        Ok(machine)
    }

    fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<u8, MachineError> {
        let function = |slot| {
            VirtioFunction::new(device, slot, self.memory.clone(), self.vm.clone(), self.vm.clone())
                .map_err(MachineError::from)
        };
        self.bus.add(function)
    }

    /// Puts a disk on the bus; returns its slot.
    pub fn attach_disk(&mut self, spec: &DiskSpec, file: File) -> Result<u8, MachineError> {
        if self.disks.iter().any(|(id, _)| *id == spec.id) {
            return Err(MachineError::DiskExists(spec.id.clone()));
        }
        let disk = Disk::new(file, spec.id.clone(), spec.read_only)?;
        let slot = self.plug(Box::new(BlkDevice::new(disk)))?;
        self.disks.push((spec.id.clone(), slot));
        Ok(slot)
    }

    /// Takes a disk off the bus and closes it.
    pub fn detach_disk(&mut self, id: &str) -> Result<(), MachineError> {
        let position = self.disks.iter().position(|(known, _)| known == id);
        let (_, slot) = position
            .map(|at| self.disks.remove(at))
            .ok_or_else(|| MachineError::NoSuchDisk(id.to_owned()))?;
        self.bus.remove(slot);
        Ok(())
    }

    /// Gives ids of the guest a place among this process's, so that files can belong to them.
    pub fn place_ids(&self, ids: Vec<u32>) -> Result<(), MachineError> {
        Ok(self.owners.place(ids)?)
    }

    /// Calls `alarm`, once, on any thread, when the guest remembers so many files that it should be made to forget some.
    pub fn when_crowded(&self, alarm: Alarm) {
        self.crowd.when_many(alarm);
    }

    /// Starts the vCPUs. Once.
    pub fn start(&mut self) -> Result<(), MachineError> {
        for (id, vcpu) in std::mem::take(&mut self.vcpus).into_iter().enumerate() {
            let (io, stop, stopping, counters) = (
                self.io.clone(),
                self.stop.clone(),
                self.stopping.clone(),
                self.counters.clone(),
            );
            let stopped_at = self.stopped_at.clone();
            let body = move || {
                let position = vcpu::run(vcpu, io, stop, stopping, counters);
                lock(&stopped_at).push(position);
            };
            self.threads
                .push(spawn_worker(&format!("vcpu{id}"), ThreadKind::Vcpu, body)?);
        }
        Ok(())
    }

    /// Stops all vCPUs and waits for their threads, at most for `patience`: one may be resetting a device that a file system of
    /// the host keeps busy. Harmless when none runs.
    pub fn halt(&mut self, patience: Duration) {
        self.stopping.store(true, Ordering::Release);
        let start = Instant::now();
        // A signal that comes just before the vCPU enters the guest is lost, so it is repeated until the threads are gone. All at
        // a time: one may be resetting a device that another keeps busy.
        loop {
            let mut running = false;
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                running = true;
                if let Err(error) = thread.kill(SIGRTMIN()) {
                    tracing::debug!("cannot signal a vCPU: {error}");
                }
            }
            if !running || start.elapsed() >= patience {
                break;
            }
            std::thread::sleep(KICK_INTERVAL);
        }
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            if thread.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
        self.vcpus.clear();
    }

    /// Where the vCPUs were when they stopped, those that have.
    pub fn stopped_at(&self) -> String {
        lock(&self.stopped_at).join("; ")
    }

    /// How the machine ends.
    pub fn stop_signal(&self) -> &Arc<StopSignal> {
        &self.stop
    }

    /// Console output.
    pub fn console(&self) -> &ConsoleRing {
        &self.console
    }

    /// Connections to the guest.
    pub fn vsock(&self) -> &VsockHandle {
        &self.vsock
    }

    /// What the machine cost so far.
    pub fn counters(&self) -> Counters {
        Counters {
            bytes_copied_at_boot: self.bytes_copied,
            ..self.counters.read()
        }
    }
}

impl Drop for Machine {
    /// Stops what still runs and waits for every device's threads.
    fn drop(&mut self) {
        self.halt(Duration::MAX);
        self.bus.shut_down();
    }
}

/// Only there to interrupt KVM_RUN.
extern "C" fn on_kick(_: nix::libc::c_int, _: *mut nix::libc::siginfo_t, _: *mut nix::libc::c_void) {}

fn device<E: std::fmt::Display>(device: &'static str) -> impl Fn(E) -> MachineError {
    move |error| MachineError::Device {
        device,
        reason: error.to_string(),
    }
}

fn interrupt_line(vm: &Vm, line: u32) -> Result<EventFd, MachineError> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(system("make an event"))?;
    vm.add_interrupt_line(&event, line)?;
    Ok(event)
}

/// Writes everything but the kernel that the guest finds in its memory; returns how many bytes that were.
fn prepare_guest(
    memory: &GuestMemory,
    layout: &Layout,
    spec: &VmSpec,
    agent_image_bytes: u64,
) -> Result<u64, MachineError> {
    let mut seed = [0u8; params::SEED_BYTES];
    random(&mut seed).map_err(|error| system("read random bytes")(error.into()))?;
    let line = cmdline::build(spec.verbose_console, &spec.extra_cmdline)?;
    let map = params::e820(layout, agent_image_bytes);
    let written = params::write(memory, &line, &map, &seed)?
        + acpi::write(memory, spec.vcpus)?
        + registers::write_tables(memory)?;
    Ok(written)
}
