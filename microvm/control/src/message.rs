//! The messages. Serialized with postcard; both ends are built from the same tree, so there is no version field.

use serde::{Deserialize, Serialize};

/// From the runtime to the vmm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Enter the jail and boot. Exactly once, first.
    Boot(Box<VmSpec>),
    /// Open a vsock stream to the guest's `port`. Carries one fd: a connected SOCK_STREAM socket that the vmm keeps and relays.
    /// Answered by `Done` when the guest accepted, by `Failed` when it refused (reset) or did not answer in time.
    Connect {
        /// Guest's vsock port.
        port: u32,
    },
    /// Plug a block device. Carries one fd. Answered by `Attached`.
    AttachDisk(DiskSpec),
    /// Unplug the block device; the guest has released it.
    DetachDisk {
        /// As given in `AttachDisk`.
        id: String,
    },
    /// Answered by `Counters`.
    ReadCounters,
    /// Ids of the guest whose files are to have an owner here: number N of the list becomes id `FIRST_PLACE` + N of the vmm's user
    /// namespace. Begins with those that were placed before. Answered by `Done`, or by `Failed` when the vmm has the host's ids.
    PlaceIds {
        /// The ids, none of them one that the namespace has as it is.
        ids: Vec<u32>,
    },
    /// Wait until the guest remembers so many files that it should be made to forget some. Answered by `Crowded`, out of turn: it may
    /// be never. One at a time.
    AwaitCrowd,
    /// How much memory the guest shall have, in MiB: what it booted with and what comes and goes later, rounded up to blocks of 2 MiB.
    /// Less than it booted with means that much. Answered by `Done` when the guest has been told, which takes or gives memory in its
    /// own time, and by `Failed` for more than `VmSpec::max_memory_mib`. When it asks for more than the guest booted with and
    /// `PlugLateDevices` did not come before, it plugs a device, which the guest finds when it looks for new ones on its bus.
    ResizeMemory {
        /// In all.
        mib: u32,
    },
    /// Answered by `Memory`.
    ReadMemory,
    /// Plug the devices that no start waits for: randomness, the balloon by which the guest's free memory goes back to the host, and
    /// the one by which memory comes. Answered by `Done`; the guest finds them when it looks for new ones on its bus. Those that are
    /// there stay.
    PlugLateDevices,
    /// Write the guest kernel's text and constants, as they are in memory, to a file. Carries one fd: the file, empty. Answered by
    /// `Done`.
    SaveText,
    /// Where these are the same as in a file that `SaveText` of another vmm has written, use the file's pages. Carries one fd: the file,
    /// which never changes. Answered by `TextShared`.
    ShareText,
    /// How many vCPUs there shall be. Answered by `Done` when the guest can bring them online, also when there are as many or more
    /// already, and by `Failed` for more than `VmSpec::max_vcpus`.
    AddVcpus {
        /// In all.
        count: u8,
    },
}

/// From the vmm to the runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The vmm goes on in its pid namespace. Sent by the outer process, from the runtime's pid namespace.
    Jailed {
        /// Pid of the vmm as the runtime's pid namespace numbers it.
        pid: u32,
    },
    /// vCPUs are about to run.
    Booted,
    /// The request was carried out.
    Done,
    /// The disk is on the bus.
    Attached {
        /// PCI slot on bus 0 (function 0): the guest finds the device as `0000:00:SLOT.0`.
        slot: u8,
    },
    /// The request failed. The message names the object.
    Failed {
        /// Lower-case sentence for a user.
        message: String,
    },
    /// Answer to `ReadCounters`.
    Counters(Counters),
    /// Answer to `ShareText`.
    TextShared {
        /// How much of the guest's memory the file's pages are now.
        bytes: u64,
    },
    /// Answer to `ReadMemory`.
    Memory(MemoryState),
    /// Answer to `AwaitCrowd`, and the only one that does not come in the order of the requests.
    Crowded,
    /// The machine is gone; last message.
    Stopped(StopReason),
}

/// Why a machine stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest reset itself (triple fault, reboot): never asked for, so a failure.
    Reset {
        /// Last lines of the guest's console, lossy UTF-8, at most 4 KiB.
        console: String,
    },
    /// The guest kernel panicked.
    Panicked {
        /// Last lines of the guest's console, lossy UTF-8, at most 4 KiB.
        console: String,
    },
    /// The vmm could not go on (before or after the boot).
    Failed {
        /// What was attempted, on what, and why it failed.
        message: String,
        /// Last lines of the guest's console, lossy UTF-8, at most 4 KiB.
        console: String,
    },
}

/// Everything a vmm needs to know to boot one machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmSpec {
    /// vCPUs at boot, 1 or more.
    pub vcpus: u8,
    /// Most vCPUs that there can be later, `vcpus` to 128.
    pub max_vcpus: u8,
    /// Guest memory at boot in MiB, 64 or more.
    pub memory_mib: u32,
    /// Most guest memory that there can be later in MiB, `memory_mib` or more.
    pub max_memory_mib: u32,
    /// Appended to the kernel command line that the vmm builds.
    pub extra_cmdline: String,
    /// Write all kernel messages to the serial console (every byte is an exit); otherwise only emergencies.
    pub verbose_console: bool,
    /// The namespaces and ids the vmm lives in.
    pub jail: JailSpec,
    /// What the descriptors of the `Boot` packet are, in order.
    pub fds: Vec<BootFd>,
    /// Disks that are there from the first moment; their descriptors follow in `fds` as `BootFd::Disk`, in this order.
    pub disks: Vec<DiskSpec>,
}

/// A descriptor that comes with `Boot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootFd {
    /// /dev/kvm, read-write.
    Kvm,
    /// The guest kernel, an uncompressed vmlinux ELF, read-only.
    Kernel,
    /// The agent's read-only file-system image (erofs), read-only.
    AgentImage,
    /// O_PATH directory that becomes the vmm's root and the guest's share; a mount point with slave-able propagation.
    Share,
    /// Network namespace to enter.
    NetworkNamespace,
    /// A block device or image file; see `VmSpec::disks`.
    Disk,
    /// A lock on host ids of `JailSpec`: stays open for as long as the process lives. None: they are not its own.
    IdsLock,
    /// Where guest console output goes (append-only file); absent: only the ring of last lines is kept.
    ConsoleLog,
}

/// Ids and namespaces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JailSpec {
    /// Lines of uid_map and of gid_map. The guest's ids are the same inside, but for those behind [`FIRST_PLACE`].
    pub ids: Vec<IdExtent>,
}

/// One line of uid_map or gid_map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdExtent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdExtent {
    /// Every id as it is.
    pub const ALL: IdExtent = IdExtent {
        inside: 0,
        outside: 0,
        count: u32::MAX,
    };

    /// Whether it has an id inside.
    pub fn contains(self, inside: u32) -> bool {
        inside.checked_sub(self.inside).is_some_and(|nth| nth < self.count)
    }

    /// What is written to uid_map or gid_map, in one write.
    pub fn text(extents: &[IdExtent]) -> String {
        let lines = extents.iter();
        lines
            .map(|line| format!("{} {} {}\n", line.inside, line.outside, line.count))
            .collect()
    }
}

/// A block device of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Name for messages and for `DetachDisk`; also the virtio serial (at most 20 bytes are shown to the guest).
    pub id: String,
    /// Refuse writes.
    pub read_only: bool,
}

/// The guest's memory, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// What it booted with.
    pub boot_mib: u32,
    /// What it has taken besides.
    pub plugged_mib: u32,
    /// What it shall have in all, as it was told last.
    pub requested_mib: u32,
    /// What it can have in all.
    pub max_mib: u32,
}

/// What the machine cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Exits to user space by kind.
    pub exits_io: u64,
    /// MMIO exits (ECAM, BARs).
    pub exits_mmio: u64,
    /// All other exits to user space.
    pub exits_other: u64,
    /// Bytes of guest memory that the vmm wrote before the first instruction.
    pub bytes_copied_at_boot: u64,
}

/// First id of the vmm's user namespace that stands for a higher one of the guest, as `Request::PlaceIds` says.
pub const FIRST_PLACE: u32 = 0xffff_0000;

/// Folder of a container's root file system, below the container's in the share, when nobody but the pod writes it.
pub const OWN_ROOTFS: &str = "rootfs";

/// The same when it lay ready, where others may write it too.
pub const READY_ROOTFS: &str = "ready-rootfs";
