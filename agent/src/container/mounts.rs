//! Mounts of a spec as runc would make them, where libcontainer would not: its own look at a place follows no link to what is not there
//! yet, it ignores options of a bind mount that it does not know, and it drops some of the others.
//!
//! [`prepare`] is called in the helper before the container is made, so that nobody changes its root file system yet, and
//! [`Unfinished::finish`] before its program runs.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use safe_path::scoped_resolve;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::program;

/// The only files below /proc that may be replaced: those by which lxcfs and its like show a container its limits.
const OVER_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Options that a bind mount may have: runc's (OCI runtime specification, "Linux mount options").
const BIND_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// What is left to do when libcontainer has made the mounts, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished(Vec<(PathBuf, Change)>);

/// What is left to do for one mount.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// No symbolic links are followed on it.
    NoLinks,
    Propagation(MsFlags),
}

/// Puts each mount's place into the spec as what it is in the root file system, and refuses what runc refuses.
pub fn prepare(spec: &mut Spec, rootfs: &Path) -> Result<Unfinished, String> {
    let mut earlier: Vec<Earlier> = Vec::new();
    let mut unfinished = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        check_options(mount)?;
        let destination = mount.destination().clone();
        let place = place_of(&destination, rootfs, &earlier)
            .map_err(|error| format!("error mounting to rootfs at {destination:?}: {error}"))?;
        check_proc(mount, &place)?;
        // What comes to lie under this mount cannot be reached any more.
        unfinished.retain(|(below, _): &(PathBuf, Change)| !below.starts_with(&place));
        unfinished.extend(changes(mount).into_iter().map(|change| (place.clone(), change)));
        if let Some(options) = mount.options_mut() {
            // libcontainer takes these for the file system's.
            options.retain(|option| option != NO_LINKS && option != LINKS);
        }
        if place != destination {
            mount.set_destination(place.clone());
        }
        earlier.push(Earlier {
            place,
            source: mount.source().clone().filter(|_| is_bind(mount)),
        });
    }
    // Last: no further place is found through such a mount.
    unfinished.sort_by_key(|(_, change)| *change == Change::NoLinks);
    Ok(Unfinished(unfinished))
}

/// A container in a user namespace of its own may not mount what shows a namespace that is not its own, such as the network, which is
/// the whole pod's: it gets one that is mounted below `directory`, in the calling process's mount namespace.
pub fn lend_file_systems(spec: &mut Spec, directory: &Path) -> Result<(), String> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone());
    let has = |kind| namespaces.iter().flatten().any(|namespace| namespace.typ() == kind);
    if !has(LinuxNamespaceType::User) {
        return Ok(());
    }
    let shows = |file_system: &str| match file_system {
        "sysfs" => Some(LinuxNamespaceType::Network),
        "mqueue" => Some(LinuxNamespaceType::Ipc),
        "proc" => Some(LinuxNamespaceType::Pid),
        _ => None,
    };
    for own in spec.mounts_mut().iter_mut().flatten() {
        let file_system = own.typ().clone().unwrap_or_default();
        if shows(&file_system).is_none_or(has) {
            continue;
        }
        let place = directory.join(&file_system);
        let make = || -> io::Result<()> {
            std::fs::create_dir_all(&place)?;
            let name = Some(file_system.as_str());
            Ok(mount(name, &place, name, MsFlags::empty(), None::<&str>)?)
        };
        make().map_err(|error| format!("cannot mount a file system {file_system:?} for the container: {error}"))?;
        let mut options = own.options().clone().unwrap_or_default();
        options.push("bind".to_owned());
        own.set_typ(Some("bind".to_owned()));
        own.set_source(Some(place));
        own.set_options(Some(options));
    }
    Ok(())
}

/// A mount of the spec that others may lie in.
struct Earlier {
    place: PathBuf,
    /// What is bound there.
    source: Option<PathBuf>,
}

/// The option of a mount that no symbolic links are followed on.
const NO_LINKS: &str = "nosymfollow";

/// The opposite.
const LINKS: &str = "symfollow";

/// What libcontainer drops of a mount's options.
fn changes(mount: &Mount) -> Vec<Change> {
    let options = || mount.options().iter().flatten().map(String::as_str);
    let below = is_bind(mount);
    let propagation = options().filter_map(|option| propagation(option, below).map(Change::Propagation));
    let links = options().rfind(|option| [NO_LINKS, LINKS].contains(option));
    let links = (links == Some(NO_LINKS)).then_some(Change::NoLinks);
    propagation.chain(links).collect()
}

/// `below`: whether a mount brings others along, which the recursive options are for.
fn propagation(option: &str, below: bool) -> Option<MsFlags> {
    let (option, below) = match option.strip_prefix('r') {
        Some(option) if below => (option, MsFlags::MS_REC),
        Some(option) => (option, MsFlags::empty()),
        None => (option, MsFlags::empty()),
    };
    let kind = match option {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

impl Unfinished {
    /// Does it, in the mount namespace of the container's init, which the calling process does not leave again.
    pub fn finish(&self, init: Pid) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let enter = || -> io::Result<()> {
            let namespace = File::open(format!("/proc/{init}/ns/mnt"))?;
            Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
        };
        enter().map_err(|error| format!("cannot enter the container's mount namespace: {error}"))?;
        for (place, change) in &self.0 {
            change.apply(place).map_err(|errno| {
                format!(
                    "cannot change the mount at {:?}: {}",
                    place.display().to_string(),
                    program::text(errno)
                )
            })?;
        }
        Ok(())
    }
}

impl Change {
    fn apply(&self, place: &Path) -> nix::Result<()> {
        let flags = match self {
            Change::Propagation(kind) => *kind,
            Change::NoLinks => MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags_at(place)? | NO_SYMLINKS,
        };
        mount(None::<&str>, place, None::<&str>, flags, None::<&str>)
    }
}

/// MS_NOSYMFOLLOW (mount(2)).
const NO_SYMLINKS: MsFlags = MsFlags::from_bits_retain(256);

/// The flags of the mount that a path lies in. How it keeps access times is left out: a remount that does not name them leaves them.
fn flags_at(path: &Path) -> nix::Result<MsFlags> {
    let has = statvfs(path)?.flags();
    let known = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let flags = known.into_iter().filter(|(flag, _)| has.contains(*flag));
    Ok(flags.map(|(_, flag)| flag).collect())
}

/// Where a mount comes to lie. What is below an earlier mount is not looked up: libcontainer finds it there.
fn place_of(destination: &Path, rootfs: &Path, earlier: &[Earlier]) -> io::Result<PathBuf> {
    let root = Path::new("/");
    let lies_in = |place: &Path| {
        let mut mounts = earlier.iter().rev().filter(|mount| mount.place != root);
        mounts.find_map(|mount| Some((mount, place.strip_prefix(&mount.place).ok()?.to_owned())))
    };
    let mut place = root.to_owned();
    for part in destination.components() {
        match part {
            Component::Normal(name) => {
                place.push(name);
                if lies_in(&place).is_none() {
                    place = root.join(scoped_resolve(rootfs, &place)?);
                }
            }
            Component::ParentDir => {
                place.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if let Some((mount, rest)) = lies_in(&place)
        && let Some(source) = &mount.source
        && leads_through_links(source, &rest)?
    {
        return Err(io::Error::other(format!(
            "the way leads through a symbolic link in the volume at {:?}",
            mount.place
        )));
    }
    Ok(place)
}

/// Whoever wrote a volume could lead a mount to where none may lie.
fn leads_through_links(source: &Path, rest: &Path) -> io::Result<bool> {
    if rest.as_os_str().is_empty() {
        return Ok(false);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(File::open(source)?, rest, how).is_err_and(|errno| errno == nix::Error::ELOOP))
}

/// Nothing may hide what a container learns from its /proc.
fn check_proc(mount: &Mount, place: &Path) -> Result<(), String> {
    let Ok(below) = place.strip_prefix("/proc") else {
        return Ok(());
    };
    let typ = mount.typ().as_deref().unwrap_or_default();
    if typ == "proc" || typ == "sysfs" || OVER_PROC.iter().any(|name| below == Path::new(name)) {
        return Ok(());
    }
    let refused = |why: &str| {
        Err(format!(
            "error mounting {typ:?} to rootfs at {place:?}: {place:?} cannot be mounted because it is {why}"
        ))
    };
    match below.as_os_str().is_empty() {
        true => refused("not of type proc"),
        false => refused("inside /proc"),
    }
}

fn check_options(mount: &Mount) -> Result<(), String> {
    if !is_bind(mount) {
        return Ok(());
    }
    let mut options = mount.options().iter().flatten();
    match options.find(|option| !BIND_OPTIONS.contains(&option.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(format!(
            "error mounting to rootfs at {:?}: a bind mount has no option {unknown:?}",
            mount.destination()
        )),
    }
}

/// Whether libcontainer takes a mount for a bind mount.
pub fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.into_iter().any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
#[path = "mounts_test.rs"]
mod tests;
