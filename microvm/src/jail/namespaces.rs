//! Entering the namespaces, single-threaded, before anything of the guest's is looked at.
//!
//! Order and reasons:
//!
//! 1. the pod's network namespace, which needs the rights of the host's root, and new ones of the kinds that nobody inside is to own;
//! 2. a fork, because a pid namespace begins with the next child. The outer process tells the runtime the pid and ends;
//! 3. while /proc can still be named, a mount of its own for this process's descriptors: from a directory descriptor that lies in a
//!    mount of the host, `..` would lead to all of the host;
//! 4. a mount namespace that still belongs to the initial user namespace, so that nobody inside can ever mount; its root becomes
//!    the share, read-only but for the mounts that the runtime makes below it later, which arrive because the copy is a slave;
//! 5. the user namespace. The ids are mapped by a child that stays outside.
//!
//! Unsafe, because of fork and open_tree.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use bulkhead_vmm_control::{Channel, ChannelError, IdExtent, JailSpec, Reply};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, fchdir, fork, pipe2, pivot_root, read, setgroups, setresgid, setresuid, write,
};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};
use thiserror::Error;

use super::capabilities;

/// Why the jail could not be entered.
#[derive(Debug, Error)]
pub enum JailError {
    /// A system call failed.
    #[error("jail: cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The child that writes the id maps failed.
    #[error("jail: cannot map the ids {maps}; the runtime must be root on the host and the ranges must exist")]
    Map {
        /// The maps.
        maps: String,
    },
    /// The capabilities could not be dropped.
    #[error("jail: cannot reduce the capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The runtime could not be told.
    #[error("jail: cannot report the pid: {0}")]
    Report(#[from] ChannelError),
}

fn failed(what: &'static str) -> impl Fn(Errno) -> JailError {
    move |source| JailError::System { what, source }
}

/// What the inner process has besides the share.
#[derive(Debug)]
pub struct Entered {
    /// This process's /proc/self/fd as the root of a mount that nothing else is reached from, to re-open files by number. O_PATH.
    pub descriptors: OwnedFd,
}

/// Enters the jail. Returns in the inner process, which is pid 1 of its namespace; the outer process never returns on success.
///
/// Must be called while the process has one thread. The caller drops `share` and `network` before it looks at anything of the guest's:
/// they lie in mounts of the host.
pub fn enter(
    spec: &JailSpec,
    share: &OwnedFd,
    network: Option<&OwnedFd>,
    channel: &Channel,
) -> Result<Entered, JailError> {
    if let Some(network) = network {
        setns(network, CloneFlags::CLONE_NEWNET).map_err(failed("enter the network namespace"))?;
    }
    let mut namespaces =
        CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    namespaces.set(CloneFlags::CLONE_NEWNET, network.is_none());
    unshare(namespaces).map_err(failed("make namespaces"))?;
    fork_inside(channel)?;
    let proc = open(
        "/proc",
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open /proc"))?;
    let descriptors = detached_mount(c"/proc/self/fd").map_err(failed("detach /proc/self/fd"))?;
    enter_share(share)?;
    let mapper = Mapper::start(spec, &proc)?;
    drop(proc);
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make a user namespace"))?;
    mapper.finish(spec)?;
    become_root()?;
    keep_capabilities_as_anybody().map_err(failed("keep capabilities as another user"))?;
    umask(Mode::empty());
    // 0 would not keep the kernel from piping guest memory to a crash handler (core_pattern with "|"), 1 and undumpable do.
    setrlimit(Resource::RLIMIT_CORE, 1, 1).map_err(failed("forbid core dumps"))?;
    set_dumpable(false).map_err(failed("become undumpable"))?;
    capabilities::keep_file_server()?;
    set_no_new_privs().map_err(failed("set no_new_privs"))?;
    Ok(Entered { descriptors })
}

/// A copy of the mount that `path` lies in, with `path` as its root and no place in any mount tree.
fn detached_mount(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = nix::libc::OPEN_TREE_CLONE | nix::libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path ends with a zero byte, and the call touches no other memory.
    let opened = unsafe { nix::libc::syscall(nix::libc::SYS_open_tree, nix::libc::AT_FDCWD, path.as_ptr(), flags) };
    let descriptor = Errno::result(opened)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// Makes the share the root of a new mount namespace and drops everything else.
fn enter_share(share: &OwnedFd) -> Result<(), JailError> {
    // The working directory moves along into the copy of the mount tree, a descriptor would not.
    fchdir(share).map_err(failed("change to the share"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(failed("stop mounts from leaving"))?;
    pivot_root(".", ".").map_err(failed("make the share the root; it must be a mount point"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("drop the old root"))?;
    chdir("/").map_err(failed("change to the root"))?;
    // The runtime follows the paths of the folders between the root and the mounts below: the guest must not replace them.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(failed("make the root read-only"))
}

/// A child outside of the user namespace that writes its id maps when told to.
struct Mapper {
    child: Pid,
    go: OwnedFd,
}

impl Mapper {
    fn start(spec: &JailSpec, proc: &OwnedFd) -> Result<Mapper, JailError> {
        let (wait, go) = pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
        // The pid namespace has its own numbers, /proc shows the host's.
        let parent = readlinkat(proc, "self").map_err(failed("read /proc/self"))?;
        let parent = parent.to_string_lossy();
        // SAFETY: the process has one thread, so the child may use everything that it inherits.
        match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Parent { child } => Ok(Mapper { child, go }),
            ForkResult::Child => {
                drop(go);
                let done = read(&wait, &mut [0u8; 1]) == Ok(1) && write_maps(spec, proc, &parent).is_ok();
                // SAFETY: ends the child at once, without running what the parent has registered.
                unsafe { nix::libc::_exit(i32::from(!done)) }
            }
        }
    }

    fn finish(self, spec: &JailSpec) -> Result<(), JailError> {
        write(&self.go, &[1]).map_err(failed("tell the mapper"))?;
        match waitpid(self.child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            _ => Err(JailError::Map {
                maps: format!("{:?}", spec.ids),
            }),
        }
    }
}

fn write_maps(spec: &JailSpec, proc: &OwnedFd, process: &str) -> Result<(), Errno> {
    let text = IdExtent::text(&spec.ids);
    for name in ["uid_map", "gid_map"] {
        let path = format!("{process}/{name}");
        let file = openat(proc, path.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        // The kernel takes a map in one write or not at all.
        if write(&file, text.as_bytes())? != text.len() {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}

/// The file server acts as the user whom a new file is to belong to. Whether that user may make it, the guest's kernel has decided, by
/// more than the user: a process can have capabilities there.
fn keep_capabilities_as_anybody() -> Result<(), Errno> {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).map_err(|e| Errno::from_raw(e.raw_os_error()))
}

/// Takes id 0 of the namespace, whatever that is outside.
fn become_root() -> Result<(), JailError> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).map_err(failed("drop the supplementary groups"))?;
    setresgid(group, group, group).map_err(failed("take group 0 of the namespace"))?;
    setresuid(user, user, user).map_err(failed("take user 0 of the namespace"))
}

/// Goes on in a child; the parent reports its pid and ends. The child waits until that is done, so that the reports keep their order.
fn fork_inside(channel: &Channel) -> Result<(), JailError> {
    let (wait, go) = pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
    // SAFETY: the process still has one thread.
    match unsafe { fork() }.map_err(failed("fork into the pid namespace"))? {
        ForkResult::Parent { child } => {
            drop(wait);
            let reported = channel
                .send(
                    &Reply::Jailed {
                        pid: child.as_raw() as u32,
                    },
                    &[],
                )
                .is_ok()
                && write(&go, &[1]).is_ok();
            // SAFETY: ends the outer process at once; the child owns everything from now on.
            unsafe { nix::libc::_exit(i32::from(!reported)) }
        }
        ForkResult::Child => {
            drop(go);
            match read(wait.as_fd(), &mut [0u8; 1]) {
                Ok(1) => Ok(()),
                Ok(_) => Err(JailError::Report(ChannelError::Closed)),
                Err(source) => Err(failed("wait for the outer process")(source)),
            }
        }
    }
}

#[cfg(test)]
#[path = "namespaces_test.rs"]
mod namespaces_test;
