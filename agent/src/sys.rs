//! The system calls that no safe wrapper covers, each wrapped once. Everything here acts on the agent's own process or on
//! descriptors it owns.
#![allow(unsafe_code)] // raw ioctl, fork and pidfd_open exist in no safe form

use nix::errno::Errno;
use nix::libc;
use nix::pty::Winsize;
use nix::unistd::{ForkResult, Pid};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod ioctls {
    use nix::libc;
    use nix::pty::Winsize;

    nix::ioctl_write_ptr_bad!(set_winsize, libc::TIOCSWINSZ, Winsize);
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(add_entropy, super::RNDADDENTROPY, super::EntropyHeader);
}

/// _IOW('R', 0x03, int[2]) of linux/random.h.
const RNDADDENTROPY: u64 = 0x4008_5203;

/// Largest number of bytes credited by one call of [`add_entropy`].
pub const MAX_ENTROPY: usize = 256;

/// `struct rand_pool_info` of linux/random.h with room for the bytes.
#[repr(C)]
struct EntropyHeader {
    entropy_bits: libc::c_int,
    size_bytes: libc::c_int,
    bytes: [u8; MAX_ENTROPY],
}

/// Adds `bytes` (at most [`MAX_ENTROPY`] are used) to the kernel's entropy pool behind `random` (/dev/random) and credits them.
pub fn add_entropy(random: impl AsFd, bytes: &[u8]) -> nix::Result<()> {
    let mut header = EntropyHeader {
        entropy_bits: 0,
        size_bytes: 0,
        bytes: [0; MAX_ENTROPY],
    };
    let mut count: libc::c_int = 0;
    for (slot, byte) in header.bytes.iter_mut().zip(bytes) {
        *slot = *byte;
        count += 1;
    }
    header.size_bytes = count;
    header.entropy_bits = count * 8;
    // SAFETY: the kernel reads size_bytes bytes after the header, and `bytes` has at least that many.
    unsafe { ioctls::add_entropy(random.as_fd().as_raw_fd(), &header) }.map(drop)
}

/// Sets the size of the terminal `terminal` (either side), in characters.
pub fn set_terminal_size(terminal: impl AsFd, width: u16, height: u16) -> nix::Result<()> {
    let size = Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is a valid winsize that outlives the call.
    unsafe { ioctls::set_winsize(terminal.as_fd().as_raw_fd(), &size) }.map(drop)
}

/// Makes `terminal` the controlling terminal of the calling session leader.
pub fn set_controlling_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: takes an integer argument only.
    unsafe { ioctls::set_controlling_terminal(terminal.as_fd().as_raw_fd(), 0) }.map(drop)
}

/// Brings the loopback interface up, through any socket.
pub fn bring_loopback_up(socket: impl AsFd) -> nix::Result<()> {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a valid ifreq with a terminated name.
    unsafe { ioctls::set_interface_flags(socket.as_fd().as_raw_fd(), &request) }.map(drop)
}

/// Slews the realtime clock by `microseconds` in the way of adjtime(3): the kernel spreads it at 0.5 ms a second.
pub fn slew_clock(microseconds: i64) -> nix::Result<()> {
    // SAFETY: an all-zero timex is a valid one.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT as libc::c_uint;
    change.offset = microseconds;
    // SAFETY: `change` is a valid timex that the kernel may write to.
    Errno::result(unsafe { libc::adjtimex(&mut change) }).map(drop)
}

/// A descriptor for the process `pid`. The caller knows that the pid has not been reaped.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes over an inherited descriptor by its number.
pub fn inherited(fd: i32) -> nix::Result<OwnedFd> {
    nix::fcntl::fcntl(
        // SAFETY: borrowed for this one call only, which fails for a closed number.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.max(0)) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    // SAFETY: the descriptor is open, and the parent left it to this process for this purpose alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Proof that the process has a single thread, which is what makes a fork safe.
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads; needs the /proc of the caller's own pid namespace.
    pub fn prove() -> nix::Result<Self> {
        match std::fs::read_dir("/proc/self/task").map_err(|_| Errno::ENOENT)?.count() {
            1 => Ok(Self(())),
            _ => Err(Errno::EBUSY),
        }
    }

    /// fork(2).
    pub fn fork(self) -> nix::Result<ForkResult> {
        // SAFETY: this process has one thread, so no lock is held by another one, and the child may go on as usual.
        unsafe { nix::unistd::fork() }
    }
}

/// Gives back the default action for SIGPIPE, which Rust's start-up code ignores and a program would inherit.
pub fn restore_sigpipe() -> nix::Result<()> {
    // SAFETY: installs no handler, only the default action.
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }
        .map(drop)
}

/// One end of a socket pair that a child inherits: without close-on-exec.
pub fn set_inheritable(fd: impl AsFd) -> nix::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).map(drop)
}

/// Reaps one ended child without waiting: its pid and its status as a shell tells it (128 + N for a death by signal N).
/// nix's own wrapper loses the pid of a process that a realtime signal ended.
pub fn reap_one() -> nix::Result<Option<(Pid, u32)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` is valid for writing.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) })?;
    if pid == 0 {
        return Ok(None);
    }
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Ok(Some((Pid::from_raw(pid), code.unsigned_abs())))
}

/// kill(2) with a plain number, because realtime signals have no name in nix.
pub fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Registers a descriptor with the runtime. It must be one that epoll takes (no regular file).
pub fn watched(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Loads a filter of system calls for the calling thread; `flags` are SECCOMP_FILTER_FLAG_* (seccomp(2)).
pub fn load_seccomp_filter(program: &[libc::sock_filter], flags: libc::c_ulong) -> nix::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        // Only read.
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` says how many instructions there are and where, and both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match Errno::result(done)? {
        0 => Ok(()),
        // With SECCOMP_FILTER_FLAG_TSYNC: a thread that cannot have the filter.
        _ => Err(Errno::EBUSY),
    }
}

/// How the calling thread is scheduled from now on (sched_setattr(2)).
pub fn set_scheduler(attributes: &libc::sched_attr) -> nix::Result<()> {
    // SAFETY: `attributes` says how large it is, is only read, and outlives the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes, 0) }).map(drop)
}

/// KEYCTL_JOIN_SESSION_KEYRING and KEYCTL_SETPERM of linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;

/// Makes the keyring `name` the calling process's session keyring, a new one if there is none, and gives it `permissions` (KEY_POS_ALL and
/// so on, linux/key.h).
pub fn join_session_keyring(name: &str, permissions: u32) -> nix::Result<()> {
    let name = terminated(name.as_bytes())?;
    // SAFETY: `name` is a terminated string that outlives the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    let key = Errno::result(key)?;
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) }).map(drop)
}

/// Mounts a file system of type `kind` at `place`. `source`: a device node where it needs one. `options`: its own, such as "ro" or
/// "data=ordered".
pub fn mount_file_system(source: &Path, kind: &str, options: &[String], place: &Path) -> nix::Result<()> {
    let context = FileSystem::new(kind)?;
    context.set_to("source", source.as_os_str().as_bytes())?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.set_to(key, value.as_bytes())?,
            None => context.set(option)?,
        }
    }
    context.command(libc::FSCONFIG_CMD_CREATE)?;
    // SAFETY: takes integers only.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, context.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, 0) };
    let mount = descriptor(mount)?;
    let (empty, place) = (c"", terminated(place.as_os_str().as_bytes())?);
    let (from, to) = (empty.as_ptr(), place.as_ptr());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: both are terminated strings that outlive the call.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), from, libc::AT_FDCWD, to, flags) };
    Errno::result(moved).map(drop)
}

/// A file system that is being configured (fsopen(2), fsconfig(2)).
struct FileSystem(OwnedFd);

impl FileSystem {
    fn new(kind: &str) -> nix::Result<FileSystem> {
        let kind = terminated(kind.as_bytes())?;
        // SAFETY: `kind` is a terminated string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        descriptor(fd).map(FileSystem)
    }

    fn set(&self, flag: &str) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(flag), None)
    }

    fn set_to(&self, key: &str, value: &[u8]) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    fn command(&self, command: libc::c_uint) -> nix::Result<()> {
        self.configure(command, None, None)
    }

    fn configure(&self, command: libc::c_uint, key: Option<&str>, value: Option<&[u8]>) -> nix::Result<()> {
        let key = key.map(|key| terminated(key.as_bytes())).transpose()?;
        let value = value.map(terminated).transpose()?;
        let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        let (key, value) = (pointer(&key), pointer(&value));
        // SAFETY: both are null or terminated strings that outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(done).map(drop)
    }
}

fn terminated(text: &[u8]) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// What a call that gives a descriptor has returned.
fn descriptor(returned: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(returned)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the lower half, source register in the upper one.
    pub registers: u8,
    /// Of a jump or of memory.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

/// The first fields of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct BpfLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

/// The first fields of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct BpfAttach {
    target: i32,
    program: i32,
    attach_type: u32,
    flags: u32,
}

/// Numbers of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// The programs of a container's own groups are asked as well.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// How often a program is loaded until a signal is no longer the reason that it fails.
const LOAD_ATTEMPTS: u32 = 32;

/// Loads a program that decides about devices.
pub fn load_device_program(instructions: &[BpfInstruction]) -> nix::Result<OwnedFd> {
    let request = BpfLoad {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: the request has the size given and points to a whole program and a terminated string, both of which outlive the call.
    let load = || Errno::result(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &request, size_of::<BpfLoad>()) });
    // The kernel's verifier gives up with EAGAIN when a signal comes, such as that of a child's end.
    let mut attempts = (1..LOAD_ATTEMPTS).map(|_| load());
    let fd = attempts.find(|fd| *fd != Err(Errno::EAGAIN)).unwrap_or_else(load)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches such a program to a cgroup. It stays until the group is removed.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    let request = BpfAttach {
        target: cgroup.as_fd().as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the request has the size given and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &request, size_of::<BpfAttach>()) };
    Errno::result(done).map(drop)
}

/// For tests of what calls answer.
#[cfg(test)]
pub mod testing {
    use super::{Errno, libc};

    /// A system call that takes one number and whose other arguments are zero.
    pub fn call(number: libc::c_long, argument: libc::c_long) -> nix::Result<i64> {
        // SAFETY: the tests ask only calls that take no pointers, or refuse a null one.
        Errno::result(unsafe { libc::syscall(number, argument, 0, 0, 0, 0, 0) })
    }
}
