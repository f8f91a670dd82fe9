//! User namespaces of containers. libcontainer would leave maps of several lines to the program newuidmap, which a guest has not: it is
//! given a namespace that is there already.

use super::program;
use crate::sys::SingleThreaded;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, pipe2, read, write};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes the new user namespace that a container is to have, and puts its path into the specification. It exists as long as the file
/// that is given back is open, or somebody lives in it. Must be called while the process has one thread.
pub fn make(spec: &mut Spec) -> Result<Option<File>, String> {
    let Some(linux) = spec.linux_mut() else { return Ok(None) };
    let users = linux.uid_mappings().clone().unwrap_or_default();
    let groups = linux.gid_mappings().clone().unwrap_or_default();
    let Some(namespaces) = linux.namespaces_mut() else {
        return Ok(None);
    };
    let mut new = namespaces
        .iter_mut()
        .filter(|namespace| namespace.typ() == LinuxNamespaceType::User && namespace.path().is_none());
    let Some(namespace) = new.next() else { return Ok(None) };
    if users.is_empty() || groups.is_empty() {
        return Err(
            "the specification has a new user namespace and no uidMappings or no gidMappings for it".to_owned(),
        );
    }
    let made = with_maps(&users, &groups).map_err(|error| {
        format!(
            "cannot make a user namespace with the {} uidMappings and {} gidMappings of the specification: {error}",
            users.len(),
            groups.len()
        )
    })?;
    namespace.set_path(Some(
        format!("/proc/{}/fd/{}", std::process::id(), made.as_raw_fd()).into(),
    ));
    Ok(Some(made))
}

/// Who a container's users and groups are outside of its user namespace.
pub struct Outside {
    users: Vec<LinuxIdMapping>,
    groups: Vec<LinuxIdMapping>,
}

impl Outside {
    /// By the maps of its specification; one without a user namespace has none.
    pub fn of(spec: &Spec) -> Outside {
        let linux = spec.linux().as_ref();
        Outside {
            users: linux.and_then(|linux| linux.uid_mappings().clone()).unwrap_or_default(),
            groups: linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default(),
        }
    }

    /// `None`: there is no such user.
    pub fn user(&self, id: u32) -> Option<u32> {
        translate(&self.users, id)
    }

    /// `None`: there is no such group.
    pub fn group(&self, id: u32) -> Option<u32> {
        translate(&self.groups, id)
    }
}

fn translate(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    if map.is_empty() {
        return Some(id);
    }
    map.iter().find_map(|line| {
        let nth = id.checked_sub(line.container_id()).filter(|nth| *nth < line.size())?;
        line.host_id().checked_add(nth)
    })
}

fn with_maps(users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> Result<File, String> {
    let text = |errno: nix::Error| program::text(errno);
    let (ready, is_ready) = pipe2(OFlag::O_CLOEXEC).map_err(text)?;
    let (wait, go) = pipe2(OFlag::O_CLOEXEC).map_err(text)?;
    match SingleThreaded::prove().and_then(SingleThreaded::fork).map_err(text)? {
        ForkResult::Child => {
            drop((ready, go));
            std::process::exit(i32::from(hold(&is_ready, &wait).is_err()));
        }
        ForkResult::Parent { child } => {
            drop((is_ready, wait));
            let made = describe(&ready, child, users, groups).map_err(|error| error.to_string());
            // The namespace stays, as it is open.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
            made
        }
    }
}

/// In the child: lives in the namespace until the parent has described it, or is gone.
fn hold(is_ready: &OwnedFd, wait: &OwnedFd) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    write(is_ready, &[1])?;
    read(wait, &mut [0]).map(drop)
}

fn describe(ready: &OwnedFd, child: Pid, users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> io::Result<File> {
    if read(ready, &mut [0])? == 0 {
        return Err(io::Error::other(
            "no namespace was made (see /proc/sys/user/max_user_namespaces)",
        ));
    }
    for (name, lines) in [("uid_map", users), ("gid_map", groups)] {
        let lines = lines
            .iter()
            .map(|line| format!("{} {} {}\n", line.container_id(), line.host_id(), line.size()));
        // The kernel takes a map in one write or not at all.
        std::fs::write(format!("/proc/{child}/{name}"), lines.collect::<String>())?;
    }
    File::open(format!("/proc/{child}/ns/user"))
}
