//! One machine: everything that has to be there before the first instruction, put together, run, and taken apart.

mod growth;
pub mod io;
pub mod stop;
mod vcpus;
pub mod vm;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_vmm_control::{Counters, DiskSpec, MemoryState, VmSpec};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use self::growth::Growth;
use self::io::Io;
use self::stop::StopSignal;
use self::vcpus::Vcpus;
use self::vm::{Vm, VmError};
use crate::boot::{acpi, cmdline, elf, params};
use crate::file_server::{Alarm, Crowd, FileServer, Owners, PlaceError};
use crate::interrupts::Line;
use crate::jail::SpawnError;
use crate::memory::PAGE_SIZE;
use crate::memory::guest::ShareError;
use crate::memory::layout::{self, Layout};
use crate::memory::ram::{self, RamError};
use crate::memory::read_only::{PublishedPages, ReadOnlyError, ReadOnlyPages};
use crate::pci::{BusError, PciBus, SLOTS};
use crate::serial::{ConsoleRing, ConsoleWriter, SerialPort};
use crate::vcpu::{VcpuError, cpuid, registers};
use crate::virtio::balloon::BalloonDevice;
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

/// Limits of a machine.
const VCPUS: std::ops::RangeInclusive<u8> = 1..=128;
const MIN_MEMORY_MIB: u32 = 64;
/// What the bus has room for beside its slot 0, the socket device, the share, and the three devices that come late.
const MAX_DISKS: usize = SLOTS - 6;
/// What no start waits for, besides the memory device.
const LATE_DEVICES: [fn() -> Box<dyn VirtioDevice>; 2] =
    [|| Box::new(BalloonDevice::new()), || Box::new(RngDevice::new())];
/// How much of the kernel's text is looked at while the vCPUs rest, bytes.
const TEXT_STEP: usize = 1 << 20;
/// How long they may take to come to rest.
const TEXT_PATIENCE: Duration = Duration::from_millis(100);

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The request is out of bounds.
    #[error(
        "a machine of {vcpus} to {max_vcpus} vCPUs and {memory_mib} to {max_memory_mib} MiB is impossible: 1 to 128 vCPUs, at least \
         {MIN_MEMORY_MIB} MiB, and the most no less than the first"
    )]
    Size {
        /// Asked for.
        vcpus: u8,
        /// Asked for.
        max_vcpus: u8,
        /// Asked for.
        memory_mib: u32,
        /// Asked for.
        max_memory_mib: u32,
    },
    /// The guest could not name the last of its memory.
    #[error(
        "up to {max_memory_mib} MiB of memory end at the guest-physical address {end:#x}, beyond the {bits} bits that addresses have \
         on this host"
    )]
    AddressWidth {
        /// Asked for.
        max_memory_mib: u32,
        /// First address above it.
        end: u64,
        /// Bits of an address.
        bits: u32,
    },
    /// Beyond what was asked for at boot.
    #[error("{wanted_mib} MiB of memory are more than the {max_mib} MiB that this machine can have")]
    TooMuchMemory {
        /// Asked for.
        wanted_mib: u32,
        /// Possible.
        max_mib: u32,
    },
    /// Beyond what was asked for at boot.
    #[error("{wanted} vCPUs are more than the {max} that this machine can have")]
    TooManyVcpus {
        /// Asked for.
        wanted: u8,
        /// Possible.
        max: u8,
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
    /// No room on the bus.
    #[error("disk {0}: the machine has {MAX_DISKS} disks already, and no room for more")]
    TooManyDisks(String),
    /// A name that is unknown.
    #[error("disk {0}: there is no such disk")]
    NoSuchDisk(String),
    /// Owners of files.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The kernel's text could not be read.
    #[error("cannot save the kernel's text: {0}")]
    SaveText(#[from] GuestMemoryError),
    /// The vCPUs did not rest.
    #[error("the vCPUs are busy with devices")]
    Busy,
    /// Memory could not be shared.
    #[error("cannot share the kernel's text: {0}")]
    ShareText(#[from] ShareError),
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
    vcpus: Vcpus,
    growth: Growth,
    stop: Arc<StopSignal>,
    bytes_copied: u64,
    console: ConsoleRing,
    vsock: VsockHandle,
    disks: Vec<(String, u8)>,
    /// How many of [`LATE_DEVICES`] are on the bus.
    late_devices: usize,
    /// The kernel's text and constants.
    text: (GuestAddress, usize),
    owners: Arc<Owners>,
    crowd: Arc<Crowd>,
    vm: Arc<Vm>,
    // What KVM maps, the bus's pages among it; outlives `vm`, because fields drop in this order.
    bus: Arc<PciBus>,
    _agent_image: ReadOnlyPages,
    memory: GuestMemory,
}

impl Machine {
    /// Builds a machine; nothing runs yet.
    pub fn build(spec: &VmSpec, parts: Parts) -> Result<Machine, MachineError> {
        check_size(spec)?;
        // Here and not later, because the main thread's policy does not let it install handlers.
        register_signal_handler(SIGRTMIN(), on_kick)
            .map_err(|error| system("install a signal handler")(error.into()))?;
        let layout = Layout::new(spec.memory_mib).growing_to(spec.max_memory_mib);
        let memory = ram::reserve(&layout)?;
        let agent_image =
            ReadOnlyPages::of_file(&parts.agent_image, layout::AGENT_IMAGE_ALIGN, layout::AGENT_IMAGE_MAX)
                .map_err(MachineError::AgentImage)?;
        let kernel = elf::load(&memory, &parts.kernel)?;
        let bytes_copied = kernel.bytes_copied + prepare_guest(&memory, &layout, spec, agent_image.len() as u64)?;

        let vm = Arc::new(Vm::new(parts.kvm)?);
        check_width(spec, &layout, cpuid::physical_address_bits(vm.supported_cpuid()))?;
        let ecam = PublishedPages::new(layout::PCI_ECAM_SIZE as usize).map_err(MachineError::Ecam)?;
        vm.add_ram(&memory)?;
        vm.add_read_only(layout::AGENT_IMAGE, &agent_image)?;
        vm.add_read_only(GuestAddress(layout::PCI_ECAM), ecam.pages())?;
        let bus = Arc::new(PciBus::new(ecam));
        let console = ConsoleRing::new();
        let writer = ConsoleWriter::new(console.clone(), parts.console_log);
        let serial = SerialPort::new(Line::new(interrupt_line(&vm, layout::SERIAL_IRQ)?), writer);
        let io = Arc::new(Io::new(serial, bus.clone()));
        let growth = Growth::new(spec, &layout, &vm, &memory)?;
        let stop = EventFd::new(EFD_NONBLOCK).map_err(system("make an event"))?;
        let stop = Arc::new(StopSignal::new(stop));
        let vcpus = Vcpus::new(spec, vm.clone(), io, stop.clone(), kernel.entry)?;

        let (vsock_device, vsock) = VsockDevice::new(GUEST_CID).map_err(device("vsock"))?;
        let mut machine = Machine {
            vcpus,
            growth,
            stop,
            bytes_copied,
            console,
            vsock,
            disks: Vec::new(),
            late_devices: 0,
            text: kernel.read_only,
            owners: Arc::new(Owners::new(&spec.jail.ids)),
            crowd: Arc::default(),
            vm,
            bus,
            _agent_image: agent_image,
            memory,
        };
        machine.plug(Box::new(vsock_device))?;
        let (owners, crowd) = (machine.owners.clone(), machine.crowd.clone());
        let share = FileServer::new("/", parts.descriptors, owners, crowd).map_err(device("fs"))?;
        machine.plug(Box::new(FsDevice::new(SHARE_TAG, share).map_err(device("fs"))?))?;
        for (disk, file) in spec.disks.iter().zip(parts.disks) {
            machine.attach_disk(disk, file)?;
        }
        Ok(machine)
    }

    fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<u8, MachineError> {
        plug(&self.bus, &self.memory, &self.vm, device)
    }

    /// Puts a disk on the bus; returns its slot.
    pub fn attach_disk(&mut self, spec: &DiskSpec, file: File) -> Result<u8, MachineError> {
        if self.disks.iter().any(|(id, _)| *id == spec.id) {
            return Err(MachineError::DiskExists(spec.id.clone()));
        }
        if self.disks.len() >= MAX_DISKS {
            return Err(MachineError::TooManyDisks(spec.id.clone()));
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

    /// Puts the devices on the bus that no start waits for, each once.
    pub fn plug_late_devices(&mut self) -> Result<(), MachineError> {
        while let Some(device) = LATE_DEVICES.get(self.late_devices) {
            self.plug(device())?;
            self.late_devices += 1;
        }
        let (bus, memory, vm) = (&self.bus, &self.memory, &self.vm);
        self.growth.plug_device(|device| plug(bus, memory, vm, device))
    }

    /// Writes the kernel's text and constants, as they are now, to a file.
    pub fn save_text(&self, file: &mut File) -> Result<(), MachineError> {
        let (start, length) = self.text;
        Ok(self.memory.write_all_volatile_to(start, file, length)?)
    }

    /// Exchanges pages of the kernel's text and constants for those of a file that was saved from another machine, where they are the
    /// same; returns how many bytes. The vCPUs rest for some hundred microseconds, several times.
    pub fn share_text(&self, mut file: File) -> Result<u64, MachineError> {
        let (start, length) = self.text;
        let saved = file
            .seek(SeekFrom::End(0))
            .map_err(system("look at the kernel's saved text"))?;
        // What another kernel has saved is of no use; beyond the end of a file there is no memory.
        if saved != length as u64 {
            return Ok(0);
        }
        let (file, mut pages) = (Arc::new(file), 0);
        for offset in (0..length).step_by(TEXT_STEP) {
            let step = TEXT_STEP.min(length - offset);
            let at = GuestAddress(start.0 + offset as u64);
            let share = || self.memory.share(at, step, &file, offset as u64);
            pages += self.vcpus.stopped(TEXT_PATIENCE, share).ok_or(MachineError::Busy)??;
        }
        Ok(pages as u64 * PAGE_SIZE)
    }

    /// Gives ids of the guest a place among this process's, so that files can belong to them.
    pub fn place_ids(&self, ids: Vec<u32>) -> Result<(), MachineError> {
        Ok(self.owners.place(ids)?)
    }

    /// Calls `alarm`, once, on any thread, when the guest remembers so many files that it should be made to forget some.
    pub fn when_crowded(&self, alarm: Alarm) {
        self.crowd.when_many(alarm);
    }

    /// Tells the guest that it shall have `mib` of memory in all, rounded up to blocks.
    pub fn resize_memory(&mut self, mib: u32) -> Result<(), MachineError> {
        let (bus, memory, vm) = (&self.bus, &self.memory, &self.vm);
        self.growth.resize(mib, |device| plug(bus, memory, vm, device))
    }

    /// What memory the guest has and shall have.
    pub fn memory_state(&self) -> MemoryState {
        self.growth.state()
    }

    /// Starts the vCPUs. Once.
    pub fn start(&mut self) -> Result<(), MachineError> {
        self.vcpus.start()
    }

    /// Adds vCPUs until there are `count`; the guest can wake them then.
    pub fn add_vcpus(&mut self, count: u8) -> Result<(), MachineError> {
        self.vcpus.add(count)
    }

    /// Stops all vCPUs and waits for their threads, at most for `patience`: one may be resetting a device that a file system of
    /// the host keeps busy. Harmless when none runs.
    pub fn halt(&mut self, patience: Duration) {
        self.vcpus.halt(patience);
    }

    /// Where the vCPUs were when they stopped, those that have.
    pub fn stopped_at(&self) -> String {
        self.vcpus.stopped_at()
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
            ..self.vcpus.counters()
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

/// Puts a device on the bus; returns its slot.
fn plug(bus: &PciBus, memory: &GuestMemory, vm: &Arc<Vm>, device: Box<dyn VirtioDevice>) -> Result<u8, MachineError> {
    bus.add(|slot| {
        Ok(VirtioFunction::new(
            device,
            slot,
            memory.clone(),
            vm.clone(),
            vm.clone(),
        )?)
    })
}

/// Whether there can be such a machine.
fn check_size(spec: &VmSpec) -> Result<(), MachineError> {
    let vcpus = VCPUS.contains(&spec.vcpus) && VCPUS.contains(&spec.max_vcpus) && spec.vcpus <= spec.max_vcpus;
    let memory = (MIN_MEMORY_MIB..=spec.max_memory_mib).contains(&spec.memory_mib);
    if vcpus && memory {
        return Ok(());
    }
    Err(MachineError::Size {
        vcpus: spec.vcpus,
        max_vcpus: spec.max_vcpus,
        memory_mib: spec.memory_mib,
        max_memory_mib: spec.max_memory_mib,
    })
}

/// Whether a guest with addresses of `bits` reaches all of its memory, also what comes later.
fn check_width(spec: &VmSpec, layout: &Layout, bits: u32) -> Result<(), MachineError> {
    // The last byte counts: memory may end where addresses end.
    if (layout.end() - 1).unbounded_shr(bits) == 0 {
        return Ok(());
    }
    Err(MachineError::AddressWidth {
        max_memory_mib: spec.max_memory_mib,
        end: layout.end(),
        bits,
    })
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
    let online = (spec.vcpus < spec.max_vcpus).then_some(spec.vcpus);
    let line = cmdline::build(spec.verbose_console, online, &spec.extra_cmdline)?;
    let map = params::e820(layout, agent_image_bytes);
    let written = params::write(memory, &line, &map, &seed)?
        + acpi::write(memory, spec.max_vcpus)?
        + registers::write_tables(memory)?;
    Ok(written)
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod machine_test;
