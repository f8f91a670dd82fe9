//! Volumes: bind mounts of the spec whose source is on the host. Each is bound below the pod's share, from where the guest's
//! file system reaches it, and the spec is given the guest's path. All other mounts (proc, tmpfs, mqueue, ...) are made in the
//! guest.
//!
//! Everything here blocks.

mod flags;
mod received;
mod shared;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_agent_protocol::{SHARE_MOUNT, VOLUMES};
use nix::errno::Errno;
use serde_json::{Map, Value};

use self::received::Received;
pub(crate) use self::received::Receiver;
use self::shared::Like;
pub(crate) use self::shared::SharedVolumes;
use crate::error::{Error, Result};
use crate::identity::{FileMap, Shift};
use crate::ids::ContainerId;
use crate::pod::Undo;
use crate::rootfs::{Access, Manner, bind, make_folder, try_map_bind};
use crate::spec::{CRI_SANDBOX_ID, annotation, in_user_namespace, last_option, text};

/// Most volumes of a container.
const MAX_VOLUMES: usize = 4096;

/// The guest's own shared memory, common to the containers of a pod.
const GUEST_SHM: &str = "/dev/shm";

/// Source of a bind mount at /dev/shm which stands for the guest's shared memory. No host has such a file.
pub const POD_SHM: &str = "/proc/bulkhead-pod-shm";

/// Binds the volumes of `spec` that the pod does not have yet and replaces the sources of all. Gives the guest's path of each volume, and
/// its source, so that no path that the guest names begins with another one that comes earlier.
pub(crate) fn prepare(
    spec: &mut Value,
    id: &ContainerId,
    bundle: &Path,
    shared: &Arc<SharedVolumes>,
    map: Option<&FileMap>,
    undo: &mut Undo,
) -> Result<Vec<(String, String)>> {
    let sandbox = annotation(spec, CRI_SANDBOX_ID).map(str::to_owned);
    let locked = in_user_namespace(spec);
    let mut shifts = Shifts::new(spec, map)?;
    let mut names = Vec::new();
    let Some(mounts) = spec.get_mut("mounts").and_then(Value::as_array_mut) else {
        return Ok(names);
    };
    if mounts.len() > MAX_VOLUMES {
        return Err(Error::invalid(format!(
            "container {id}: {} mounts, at most {MAX_VOLUMES} are possible",
            mounts.len()
        )));
    }
    for mount in mounts.iter_mut() {
        let Some(volume) = Volume::of(mount, bundle) else {
            refuse_shift(mount)?;
            continue;
        };
        let source = if volume.is_pods_shm(sandbox.as_deref()) {
            GUEST_SHM.to_owned()
        } else {
            let shift = volume.shift(mount, shifts.namespace.as_ref())?;
            let shifted = shift.map(|shift| shifts.map_for(shift)).transpose();
            let shifted = shifted.map_err(|e| e.context(format!("mount at {:?}", volume.destination)))?;
            let number = volume.share(shared, shifted.as_ref().or(map), undo)?;
            flags::keep(mount, &volume.source, locked).map_err(|e| volume.failed(e))?;
            let path = format!("{SHARE_MOUNT}/{VOLUMES}/{number}");
            names.push((path.clone(), volume.source.display().to_string()));
            path
        };
        if let Some(mount) = mount.as_object_mut() {
            mount.insert("source".into(), Value::from(source));
            forget_shift(mount);
        }
    }
    // 10 comes before 1.
    names.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    Ok(names)
}

/// Fails with the first volume of a spec that cannot be mapped. What else is wrong with them is not looked at.
pub(crate) fn try_map(spec: &Value, bundle: &Path, map: &FileMap) -> Result<()> {
    let sandbox = annotation(spec, CRI_SANDBOX_ID);
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let volumes = mounts.filter_map(|mount| Volume::of(mount, bundle));
    volumes
        .filter(|volume| !volume.is_pods_shm(sandbox))
        .take(MAX_VOLUMES)
        .try_for_each(|volume| try_map_bind(&volume.source, &volume.manner(Some(map))))
}

/// How the volumes of a container are mapped that are to show other owners. Several mostly do so in the same way.
struct Shifts<'a> {
    /// The pod's own map.
    map: Option<&'a FileMap>,
    /// What the container's user namespace does.
    namespace: Option<Shift>,
    made: Vec<(Shift, FileMap)>,
}

impl<'a> Shifts<'a> {
    fn new(spec: &Value, map: Option<&'a FileMap>) -> Result<Shifts<'a>> {
        let namespace = match spec.get("linux") {
            Some(linux) if in_user_namespace(spec) => Shift::of(linux).map_err(|e| e.context("the spec's linux"))?,
            _ => None,
        };
        Ok(Shifts {
            map,
            namespace,
            made: Vec::new(),
        })
    }

    fn map_for(&mut self, shift: Shift) -> Result<FileMap> {
        if let Some((_, made)) = self.made.iter().find(|(like, _)| *like == shift) {
            return Ok(made.clone());
        }
        let map = shift.then(self.map)?;
        self.made.push((shift, map.clone()));
        Ok(map)
    }
}

/// The owners on a file system that the guest makes are the guest's.
fn refuse_shift(mount: &Value) -> Result<()> {
    let destination = text(mount, "/destination").unwrap_or_default();
    let mapped = ["uidMappings", "gidMappings"].into_iter().find(|key| {
        let lines = mount.get(key).and_then(Value::as_array);
        lines.is_some_and(|lines| !lines.is_empty())
    });
    match mapped.or(shift_option(mount)) {
        None => Ok(()),
        Some(asked) => Err(Error::invalid(format!(
            "mount at {destination:?}: {asked} can be had of bind mounts only"
        ))),
    }
}

fn shift_option(mount: &Value) -> Option<&str> {
    let mut options = mount.get("options")?.as_array()?.iter().filter_map(Value::as_str);
    options.find(|option| SHIFTS.contains(option))
}

/// Takes away what has been done on the host.
fn forget_shift(mount: &mut Map<String, Value>) {
    for key in ["uidMappings", "gidMappings"] {
        mount.remove(key);
    }
    if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
        options.retain(|option| !option.as_str().is_some_and(|option| SHIFTS.contains(&option)));
    }
}

/// Options for mounts whose owners are to be shown as others.
const SHIFTS: [&str; 2] = ["idmap", "ridmap"];

/// One bind mount of a spec.
#[derive(Debug, PartialEq, Eq)]
struct Volume {
    source: PathBuf,
    destination: String,
    recursive: bool,
    access: Access,
    /// What the host mounts in the source later shows up in it (`slave` and `shared` propagation).
    receives: bool,
}

impl Volume {
    /// `None` for every other sort of mount.
    fn of(mount: &Value, bundle: &Path) -> Option<Volume> {
        let options = mount.get("options").and_then(Value::as_array);
        let has = |name: &str| options.is_some_and(|o| o.iter().any(|v| v.as_str() == Some(name)));
        let recursive = has("rbind");
        if !(recursive || has("bind") || text(mount, "/type") == Some("bind")) {
            return None;
        }
        let receives = ["shared", "rshared", "slave", "rslave"].iter().any(|p| has(p));
        Some(Volume {
            source: bundle.join(text(mount, "/source").unwrap_or_default()),
            destination: text(mount, "/destination").unwrap_or_default().to_owned(),
            recursive,
            access: access_of(mount),
            receives,
        })
    }

    /// Whether it is the shared memory of the pod: what containerd's CRI plugin has made for `sandbox`, or [`POD_SHM`]. Anything else
    /// that a client mounts at the same place is a volume.
    fn is_pods_shm(&self, sandbox: Option<&str>) -> bool {
        let made_for = |sandbox: &str| self.source.ends_with(Path::new(sandbox).join("shm"));
        Path::new(&self.destination) == Path::new(GUEST_SHM)
            && (self.source == Path::new(POD_SHM) || sandbox.is_some_and(made_for))
    }

    /// What it does to owners: its own mappings, or those of the container's user namespace where an option asks for it.
    fn shift(&self, mount: &Value, namespace: Option<&Shift>) -> Result<Option<Shift>> {
        let destination = &self.destination;
        if let Some(shift) = Shift::of(mount).map_err(|e| e.context(format!("mount at {destination:?}")))? {
            return Ok(Some(shift));
        }
        match (shift_option(mount), namespace) {
            (None, _) => Ok(None),
            (Some(_), Some(namespace)) => Ok(Some(namespace.clone())),
            (Some(option), None) => Err(Error::invalid(format!(
                "mount at {destination:?}: option {option:?} needs mappings of its own or of the container's user namespace"
            ))),
        }
    }

    /// Takes the pod's mount of it, which is made if there is none. Gives its number.
    fn share(&self, shared: &Arc<SharedVolumes>, map: Option<&FileMap>, undo: &mut Undo) -> Result<u64> {
        let failed = |e| self.failed(e);
        let metadata = std::fs::metadata(&self.source)
            .map_err(|e| failed(Error::invalid(format!("stat {}", self.source.display())).caused_by(lower_case(e))))?;
        let manner = self.manner(map);
        let receives = self.receives && metadata.is_dir();
        let like = Like::of(&self.source, &manner, receives).map_err(failed)?;
        shared.take(like, undo, |target, undo| {
            make_point(target, metadata.is_dir(), undo)?;
            bind(&self.source, target, &manner, undo).map_err(failed)?;
            if self.recursive {
                leave_out_share(&self.source, target, shared.share()).map_err(failed)?;
            }
            let received = receives.then(|| Received::new(&self.source, target, shared.share(), &manner));
            received.transpose().map_err(failed)
        })
    }

    fn failed(&self, error: Error) -> Error {
        error.context(format!(
            "error mounting {:?} to rootfs at {:?}",
            self.source.display().to_string(),
            self.destination
        ))
    }

    fn manner<'a>(&self, map: Option<&'a FileMap>) -> Manner<'a> {
        Manner {
            recursive: self.recursive,
            access: self.access,
            map,
        }
    }
}

/// The recursive options act after the others, and the kernel takes a flag away before it sets it (mount_setattr(2)).
fn access_of(mount: &Value) -> Access {
    let has = |option| last_option(mount, &[option]).is_some();
    match last_option(mount, &["ro", "rw"]) {
        _ if has("rro") => Access::ReadAll,
        Some("ro") if !has("rrw") => Access::Read,
        _ => Access::Write,
    }
}

/// The share is no part of a volume that the folder is in where it is: what other containers have would stay for as long.
fn leave_out_share(source: &Path, target: &Path, share: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().map_err(|e| Error::io("cannot look at", path, e));
    let share = real(share)?;
    let source = real(source)?;
    match share.strip_prefix(&source) {
        Ok(path) if !path.as_os_str().is_empty() => match received::unmount(target, path, |_| true) {
            // It was not bound along: it is below what is mounted where that says not to.
            Ok(_) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(e) => Err(Error::io("cannot leave out the pod's share at", target, e)),
        },
        _ => Ok(()),
    }
}

/// Makes a mount point for a folder, or for anything else.
fn make_point(target: &Path, folder: bool, undo: &mut Undo) -> Result<()> {
    if folder {
        return make_folder(target, undo);
    }
    std::fs::File::create_new(target).map_err(|e| Error::io("cannot create the mount point", target, e))?;
    let at = target.to_owned();
    undo.push(format!("mount point {}", target.display()), move || {
        std::fs::remove_file(&at).map_err(|e| Error::io("cannot remove the mount point", &at, e))
    });
    Ok(())
}

/// An errno's text as Go's runtimes print it, which is what clients of runc look for.
fn lower_case(error: std::io::Error) -> std::io::Error {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(errno) => std::io::Error::new(error.kind(), errno.desc().to_lowercase()),
        None => error,
    }
}

#[cfg(test)]
#[path = "volumes_test.rs"]
mod volumes_test;
