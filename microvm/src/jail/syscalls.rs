//! The system calls of each kind of thread, in groups with a reason.

use nix::libc;

/// What a thread may call.
pub struct List {
    /// Groups of calls that are allowed with any arguments.
    pub groups: &'static [&'static [i64]],
    /// The only requests that its ioctls may make.
    pub ioctls: &'static [u64],
    /// The only options that its prctls may have.
    pub prctls: &'static [i32],
}

/// What every Rust thread does: memory, locks, time, signals, its end, and a line in the log.
const BASE: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Duplicating descriptors: queue events and disks are handed to workers.
const DUPLICATE: &[i64] = &[libc::SYS_dup, libc::SYS_eventfd2];

/// What the activation of the file server's device adds: its queues are watched from then on.
const ACTIVATE: &[i64] = &[libc::SYS_epoll_create1, libc::SYS_epoll_ctl];

/// The control channel, and the size of a disk that arrives on it.
const CONTROL: &[i64] = &[libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_lseek];

/// A disk's requests.
const DISK: &[i64] = &[
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
];

/// Relaying streams.
const STREAMS: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// What a FUSE request can ask for, relative to descriptors, and acting as the user who asks.
const FILES: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rt_sigaction,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_unshare,
    libc::SYS_utimensat,
];

/// Starting threads, and entering their policies.
const SPAWN: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_sched_getaffinity,
    libc::SYS_seccomp,
];

/// What libcap-ng asks before it changes a thread's capabilities: the bounding set where there is no /proc, and the ambient set, to
/// which nothing can be added that is not inheritable.
const ASK_CAPABILITIES: [i32; 2] = [libc::PR_CAPBSET_READ, libc::PR_CAP_AMBIENT];

/// KVM ioctls by number (Linux, include/uapi/linux/kvm.h).
mod kvm {
    pub const RUN: u64 = 0xae80;
    pub const GET_REGS: u64 = 0x8090_ae81;
    pub const GET_SREGS: u64 = 0x8138_ae83;
    pub const IOEVENTFD: u64 = 0x4040_ae79;
    pub const SIGNAL_MSI: u64 = 0x4020_aea5;
    pub const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    pub const CREATE_VCPU: u64 = 0xae41;
    pub const GET_TSC_KHZ: u64 = 0xaea3;
    pub const SET_CPUID2: u64 = 0x4008_ae90;
    pub const SET_MSRS: u64 = 0x4008_ae89;
    pub const SET_FPU: u64 = 0x41a0_ae8d;
}

/// The main thread, once the machine is built: the control channel, plugging devices, making further vCPUs.
pub const MAIN: List = List {
    groups: &[BASE, DUPLICATE, CONTROL],
    ioctls: &[
        kvm::IOEVENTFD,
        kvm::SIGNAL_MSI,
        kvm::CREATE_VCPU,
        kvm::GET_TSC_KHZ,
        kvm::SET_CPUID2,
        kvm::SET_MSRS,
        kvm::SET_FPU,
    ],
    prctls: &[],
};

/// A vCPU: runs the guest, activates and resets devices, and names its registers when it fails.
pub const VCPU: List = List {
    groups: &[BASE, DUPLICATE, ACTIVATE],
    ioctls: &[kvm::RUN, kvm::GET_REGS, kvm::GET_SREGS, kvm::IOEVENTFD, kvm::SIGNAL_MSI],
    prctls: &[],
};

/// A disk's or the random generator's queue.
pub const BLOCK: List = List {
    groups: &[BASE, DISK],
    ioctls: &[kvm::SIGNAL_MSI],
    prctls: &[],
};

/// The balloon, and memory that comes and goes: shows the guest its chunks and takes them away.
pub const MEMORY: List = List {
    groups: &[BASE],
    ioctls: &[kvm::SIGNAL_MSI, kvm::SET_USER_MEMORY_REGION],
    prctls: &[],
};

/// The vsock device.
pub const VSOCK: List = List {
    groups: &[BASE, STREAMS],
    ioctls: &[kvm::SIGNAL_MSI],
    prctls: &[],
};

/// The file server.
pub const FILE_SERVER: List = List {
    groups: &[BASE, FILES],
    ioctls: &[kvm::SIGNAL_MSI],
    prctls: &ASK_CAPABILITIES,
};

/// The spawner: filters are inherited and add up, so it may do what any of its threads may, and start them.
pub const SPAWNER: List = List {
    groups: &[BASE, DUPLICATE, CONTROL, DISK, STREAMS, FILES, SPAWN],
    ioctls: &[
        kvm::RUN,
        kvm::GET_REGS,
        kvm::GET_SREGS,
        kvm::IOEVENTFD,
        kvm::SIGNAL_MSI,
        kvm::SET_USER_MEMORY_REGION,
    ],
    prctls: &[
        libc::PR_SET_NAME,
        libc::PR_SET_NO_NEW_PRIVS,
        libc::PR_CAPBSET_READ,
        libc::PR_CAP_AMBIENT,
    ],
};
