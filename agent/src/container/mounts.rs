//! Mounts of a spec as runc would make them, where libcontainer would not: its own look at a place follows no link to what is not there
//! yet, it ignores options of a bind mount that it does not know, it drops some of the others, and nothing can be run any more from a
//! path that it makes read-only.
//!
//! [`prepare`] is called in the helper before the container is made, so that nobody changes its root file system yet, and
//! [`Unfinished::finish`] before its program runs.

use nix::errno::Errno;
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

use super::{copy_up, program};
use crate::sys;

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

/// What is left to do at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// What the root file system has there lies in the new one, too.
    CopyUp,
    Propagation(MsFlags),
    /// The mount is; libcontainer leaves /dev writable, to make devices there.
    ReadOnly,
    /// Whatever lies there is, and may not lie there.
    ReadOnlyPath,
    /// No symbolic links are followed on it. Last: no further place is found through such a mount.
    NoLinks,
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
            options.retain(|option| ![NO_LINKS, LINKS, COPY_UP].contains(&option.as_str()));
        }
        if place != destination {
            mount.set_destination(place.clone());
        }
        earlier.push(Earlier {
            place,
            source: mount.source().clone().filter(|_| is_bind(mount)),
        });
    }
    if let Some(linux) = spec.linux_mut() {
        let paths = linux.readonly_paths().iter().flatten().map(PathBuf::from);
        unfinished.extend(paths.map(|path| (path, Change::ReadOnlyPath)));
        linux.set_readonly_paths(None);
    }
    unfinished.sort_by(|(_, one), (_, other)| one.cmp(other));
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

/// Options of a file system itself that are words of mount(8).
const OF_FILE_SYSTEM: [&str; 4] = ["ro", "sync", "dirsync", "lazytime"];

/// Mounts of `disks`, and those with options that libcontainer drops and nobody can set later, are made here, below `directory`, in the
/// calling process's mount namespace, and bound from there. For disks there is another reason: a container's init is in the container's
/// cgroup, whose device filter knows only what processes may open, and libcontainer mounts for writing first.
pub fn mount_here(spec: &mut Spec, disks: &[PathBuf], directory: &Path) -> Result<(), String> {
    let has = |mount: &Mount, option: &str| mount.options().iter().flatten().any(|has| has == option);
    let is_meant = |mount: &&mut Mount| {
        let of_disk = mount.source().as_ref().is_some_and(|source| disks.contains(source));
        of_disk || (!is_bind(mount) && (has(mount, "sync") || has(mount, "dirsync")))
    };
    let mounts = spec.mounts_mut().iter_mut().flatten();
    for (number, own) in mounts.filter(is_meant).enumerate() {
        let source = own.source().clone().unwrap_or_default();
        let place = directory.join(format!("mount{number}"));
        let kind = own.typ().clone().unwrap_or_default();
        let options = own.options().clone().unwrap_or_default();
        let of_bind = |option: &&String| BIND_OPTIONS.contains(&option.as_str());
        let is_own = |option: &&String| OF_FILE_SYSTEM.contains(&option.as_str()) || !of_bind(option);
        let own_options: Vec<&str> = options.iter().filter(is_own).map(String::as_str).collect();
        let make = || -> io::Result<()> {
            std::fs::create_dir_all(&place)?;
            Ok(sys::mount_file_system(&source, &kind, &own_options, &place)?)
        };
        make().map_err(|error| {
            format!(
                "error mounting {source:?} to rootfs at {:?}: {error}",
                own.destination()
            )
        })?;
        let mut options: Vec<String> = options.iter().filter(of_bind).cloned().collect();
        options.push("bind".to_owned());
        own.set_typ(Some("bind".to_owned()))
            .set_source(Some(place))
            .set_options(Some(options));
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

/// The option of a tmpfs that begins with what it hides.
const COPY_UP: &str = "tmpcopyup";

/// What libcontainer drops of a mount's options.
fn changes(mount: &Mount) -> Vec<Change> {
    let options = || mount.options().iter().flatten().map(String::as_str);
    let last_is = |yes: &str, no: &str| options().rfind(|option| [yes, no].contains(option)) == Some(yes);
    let bind = is_bind(mount);
    let copied = mount.typ().as_deref() == Some("tmpfs") && options().any(|option| option == COPY_UP);
    let read_only = mount.destination() == Path::new("/dev") && last_is("ro", "rw");
    let mut changes: Vec<Change> = options()
        .filter_map(|option| propagation(option, bind).map(Change::Propagation))
        .collect();
    changes.extend(copied.then_some(Change::CopyUp));
    changes.extend(read_only.then_some(Change::ReadOnly));
    changes.extend(last_is(NO_LINKS, LINKS).then_some(Change::NoLinks));
    changes
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
    /// Does it, in the mount namespace of the container's init, which the calling process does not leave again. `rootfs` is the root
    /// file system outside, where none of the mounts lie over it.
    pub fn finish(&self, init: Pid, rootfs: &Path) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let hidden = |(place, change): &(PathBuf, Change)| match change {
            Change::CopyUp => copy_up::open_below(rootfs, place),
            _ => Ok(None),
        };
        let failed = |place: &Path, error: io::Error| {
            let why = error
                .raw_os_error()
                .map(|number| program::text(Errno::from_raw(number)));
            let why = why.unwrap_or_else(|| error.to_string());
            format!("cannot change the mount at {:?}: {why}", place.display().to_string())
        };
        let mut changes = Vec::new();
        for change in &self.0 {
            let hidden = hidden(change).map_err(|error| failed(&change.0, error))?;
            changes.push((change, hidden));
        }
        let enter = || -> io::Result<()> {
            let namespace = File::open(format!("/proc/{init}/ns/mnt"))?;
            Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
        };
        enter().map_err(|error| format!("cannot enter the container's mount namespace: {error}"))?;
        for ((place, change), hidden) in changes {
            match hidden {
                Some(hidden) => copy_up::copy(hidden, place),
                None => change.apply(place).map_err(io::Error::from),
            }
            .map_err(|error| failed(place, error))?;
        }
        Ok(())
    }
}

impl Change {
    fn apply(&self, place: &Path) -> nix::Result<()> {
        let change = |flags| mount(None::<&str>, place, None::<&str>, flags, None::<&str>);
        let add = |flag| change(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags_at(place)? | flag);
        match self {
            // Nothing was there.
            Change::CopyUp => Ok(()),
            Change::Propagation(kind) => change(*kind),
            Change::ReadOnly => add(MsFlags::MS_RDONLY),
            Change::ReadOnlyPath => {
                let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                match mount(Some(place), place, None::<&str>, bind, None::<&str>) {
                    Err(Errno::ENOENT) => Ok(()),
                    result => result.and_then(|()| add(MsFlags::MS_RDONLY)),
                }
            }
            Change::NoLinks => add(NO_SYMLINKS),
        }
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
