//! The host's ids that a pod's monitor and files have: a range of its own for each living pod.
//!
//! A pod's ids 0 to 65535, and the higher ones that its containers' specifications name, stand for ids of the host that nobody else
//! has. The monitor lives in a user namespace of these and owns nothing else on the host; a pod's files are mounted with its map
//! (see `rootfs`), so that their owners on the disk are what they would be without it. That namespace's map is made once, and
//! containers come later: so the monitor has places for higher ids, and is told which id has which ([`Identity::placed`]).
//!
//! Where files cannot be mapped so (a root file system that is an overlay already, as Docker's; a network file system), the map is
//! the identity: the log and the pod's record say so, and the config can forbid it.
//!
//! Everything here blocks.

mod namespace;
mod pool;
mod subordinate;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_vmm_control::{FIRST_PLACE, IdExtent, LAST_LOW_ID};
use serde_json::Value;

pub(crate) use pool::release;

use crate::config::{Config, IdMapping};
use crate::error::{Error, Result};
use crate::pod::{ContainerSpec, PodSpec, Undo};
use crate::{rootfs, spec, volumes};

/// Ids of a pod that are always mapped, and of which a range on the host begins with as many.
const LOW: u32 = LAST_LOW_ID + 1;

/// Higher ids that a pod can have besides, each on a line of at most 24 bytes in the map of its files: a map must be shorter than a
/// page (user_namespaces(7)).
const HIGH: usize = 160;

/// Host ids of one pod.
const RANGE: u32 = LOW + HIGH as u32;

/// Pods with this annotation set to "never" keep the host's ids, where the config allows it.
pub(crate) const ANNOTATION: &str = "io.bulkhead.id_mapping";

/// The first kernel that maps all that a pod commonly has: overlays (5.19), and files on a tmpfs, such as Kubernetes' secrets.
pub(crate) const KERNEL: (u32, u32) = (6, 3);

/// Who a pod is on the host. Users and groups have the same map.
#[derive(Debug)]
pub(crate) struct Identity(Option<Own>);

#[derive(Debug)]
struct Own {
    base: u32,
    placed: Mutex<Placed>,
    /// Until the monitor has it.
    lock: Mutex<Option<OwnedFd>>,
}

/// The higher ids that have places, and a user namespace whose map has all ids of the pod as they are on the disk.
#[derive(Debug, Clone)]
struct Placed {
    ids: Vec<u32>,
    namespace: Arc<OwnedFd>,
}

/// How a container's files are mapped.
#[derive(Debug)]
pub(crate) struct FileMap {
    namespace: Arc<OwnedFd>,
    base: u32,
    /// The higher ids in it.
    ids: Vec<u32>,
}

impl FileMap {
    pub(crate) fn as_map(&self) -> rootfs::Map<'_> {
        rootfs::Map {
            namespace: self.namespace.as_fd(),
            root: self.base,
        }
    }

    /// Refuses a process that is added to the container and has an id without a place in the map.
    pub(crate) fn check(&self, process: Option<&Value>) -> Result<()> {
        match high(&ids_of(process)).iter().find(|id| !self.ids.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "user or group {id} is not among the ids that the container's files can belong to, which are 0 to {LAST_LOW_ID} and the \
                 higher ones that it and the pod's containers before it run as: let it run as this id (additional groups count, \
                 too), or annotate the pod with {ANNOTATION}: \"never\""
            ))),
        }
    }
}

impl Identity {
    /// The host's own ids.
    pub(crate) const HOST: Identity = Identity(None);

    /// Takes a range for a pod, unless the files of its first container, if it has one, cannot be mapped. Given back by `undo`,
    /// which must run when the monitor has ended.
    pub(crate) fn take(
        pod: &PodSpec,
        first: Option<&ContainerSpec>,
        config: &Config,
        undo: &mut Undo,
    ) -> Result<Identity> {
        let asked = asked_by(pod, config.id_mapping)?;
        if asked == IdMapping::Never {
            return Ok(Identity::HOST);
        }
        let taken = match kernel_is_new() {
            Ok(()) => Own::for_files(pod, first, config, undo)?,
            Err(cause) => Err(cause),
        };
        match taken {
            Ok(own) => Ok(Identity(Some(own))),
            Err(cause) if asked == IdMapping::Always => {
                Err(cause.context("a range of host ids of its own is required (id_mapping = \"always\")"))
            }
            Err(cause) => {
                tracing::warn!("pod {}: runs with the host's user ids: {cause}", pod.id);
                Ok(Identity::HOST)
            }
        }
    }

    /// First id of the range on the host; `None`: the host's own ids.
    pub(crate) fn base(&self) -> Option<u32> {
        self.0.as_ref().map(|own| own.base)
    }

    /// Lines of the monitor's uid_map and gid_map.
    pub(crate) fn extents(&self) -> Vec<IdExtent> {
        match &self.0 {
            Some(own) => places(own.base),
            None => vec![IdExtent {
                inside: 0,
                outside: 0,
                count: u32::MAX,
            }],
        }
    }

    /// The higher ids that have places in the monitor, in the order of these; `None`: none needs one.
    pub(crate) fn placed(&self) -> Option<Vec<u32>> {
        Some(self.0.as_ref()?.placed().ids.clone())
    }

    /// How the files of a container with this process are to be mapped, whose ids get places; `None`: not at all. The monitor must know
    /// the places before the container is made.
    pub(crate) fn files_of(&self, process: Option<&Value>) -> Result<Option<FileMap>> {
        let Some(own) = &self.0 else { return Ok(None) };
        own.place(&ids_of(process)).map(Some)
    }

    /// What the monitor has to hold as long as it lives: nobody else gets the range until it has ended. Once.
    pub(crate) fn take_lock(&self) -> Option<OwnedFd> {
        let own = self.0.as_ref()?;
        own.lock.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Own {
    /// A range in which the container's files can be mapped. The inner error says what of them cannot; then nothing is taken.
    fn for_files(
        pod: &PodSpec,
        first: Option<&ContainerSpec>,
        config: &Config,
        undo: &mut Undo,
    ) -> Result<std::result::Result<Own, Error>> {
        let first = match first {
            Some(first) => Some((first, spec::load(&first.bundle)?)),
            None => None,
        };
        let mut step = Undo::default();
        let own = Own::take(config, &pod.ids, &mut step)?;
        match first.map_or(Ok(()), |(first, spec)| own.try_map(first, &spec)) {
            Ok(()) => {
                undo.append(step);
                Ok(Ok(own))
            }
            Err(cause) => {
                drop(own);
                step.run()?;
                Ok(Err(cause))
            }
        }
    }

    fn take(config: &Config, ids: &BTreeSet<u32>, undo: &mut Undo) -> Result<Own> {
        let ranges = subordinate::ranges(Path::new("/etc"))?;
        let (base, theirs) = pool::take(&config.ids_dir, &ranges, undo)?;
        let ids = with_places(&[], ids)?;
        let namespace = namespace_for(base, &ids)?;
        Ok(Own {
            base,
            placed: Mutex::new(Placed { ids, namespace }),
            lock: Mutex::new(Some(theirs)),
        })
    }

    fn placed(&self) -> MutexGuard<'_, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives those of some ids places that need one and have none.
    fn place(&self, ids: &BTreeSet<u32>) -> Result<FileMap> {
        let mut placed = self.placed();
        let ids = with_places(&placed.ids, ids)?;
        if ids.len() > placed.ids.len() {
            let namespace = namespace_for(self.base, &ids)?;
            *placed = Placed { ids, namespace };
        }
        Ok(FileMap {
            namespace: placed.namespace.clone(),
            base: self.base,
            ids: placed.ids.clone(),
        })
    }

    /// Fails with what of the container's files cannot be mapped. Whatever else is wrong with them is found when they are mounted.
    fn try_map(&self, container: &ContainerSpec, spec: &Value) -> Result<()> {
        let root = spec::text(spec, "/root/path");
        let files = self.place(&BTreeSet::new())?;
        rootfs::try_map(&container.rootfs, &container.bundle, root, files.as_map())?;
        volumes::try_map(spec, &container.bundle, files.as_map())
    }
}

/// What the config file and the pod's annotation say together.
fn asked_by(pod: &PodSpec, config: IdMapping) -> Result<IdMapping> {
    let annotation = match pod.annotations.get(ANNOTATION).map(String::as_str) {
        None | Some("auto") => return Ok(config),
        Some("always") => IdMapping::Always,
        Some("never") => IdMapping::Never,
        Some(other) => {
            return Err(Error::invalid(format!(
                "annotation {ANNOTATION} = {other:?}: must be \"auto\", \"always\" or \"never\""
            )));
        }
    };
    if config == IdMapping::Auto || config == annotation {
        return Ok(annotation);
    }
    Err(Error::invalid(format!(
        "annotation {ANNOTATION} of pod {}: the config file says the opposite (id_mapping)",
        pod.id
    )))
}

/// Ids that have places, and after them those of `ids` that need one.
fn with_places(placed: &[u32], ids: &BTreeSet<u32>) -> Result<Vec<u32>> {
    let mut all = placed.to_vec();
    all.extend(high(ids).into_iter().filter(|id| !placed.contains(id)));
    if all.len() > HIGH {
        return Err(Error::invalid(format!(
            "the pod's containers name {} user and group ids above {LAST_LOW_ID}, at most {HIGH} are possible",
            all.len()
        )));
    }
    Ok(all)
}

/// The map of the monitor's user namespace for a range that begins with `base`: the low ids as they are, then the places.
fn places(base: u32) -> Vec<IdExtent> {
    let low = IdExtent {
        inside: 0,
        outside: base,
        count: LOW,
    };
    let high = IdExtent {
        inside: FIRST_PLACE,
        outside: base + LOW,
        count: HIGH as u32,
    };
    vec![low, high]
}

/// The map of the files: the low ids as they are, and each of the higher ones for its place.
fn extents(base: u32, ids: &[u32]) -> Vec<IdExtent> {
    let low = IdExtent {
        inside: 0,
        outside: base,
        count: LOW,
    };
    let high = (base + LOW..).zip(ids).map(|(outside, inside)| IdExtent {
        inside: *inside,
        outside,
        count: 1,
    });
    std::iter::once(low).chain(high).collect()
}

fn namespace_for(base: u32, ids: &[u32]) -> Result<Arc<OwnedFd>> {
    let made = namespace::with_map(&extents(base, ids));
    made.map(Arc::new)
        .map_err(|e| Error::internal(format!("cannot make a user namespace for the ids from {base}")).caused_by(e))
}

/// Those of some ids that are higher than the low ones.
fn high(ids: &BTreeSet<u32>) -> BTreeSet<u32> {
    // The highest of all is no id (chown(2)).
    ids.range(LOW..u32::MAX).copied().collect()
}

/// User and group ids that a process has by its OCI description.
pub(crate) fn ids_of(process: Option<&Value>) -> BTreeSet<u32> {
    let user = process.and_then(|process| process.get("user"));
    let single = ["uid", "gid"].iter().filter_map(|key| user?.get(*key));
    let groups = user
        .and_then(|user| user.get("additionalGids"))
        .and_then(Value::as_array);
    let ids = single.chain(groups.into_iter().flatten()).filter_map(Value::as_u64);
    ids.filter_map(|id| u32::try_from(id).ok()).collect()
}

fn kernel_is_new() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(version) if version >= KERNEL => Ok(()),
        _ => Err(Error::invalid(format!(
            "Linux {} cannot map all files of a pod, {}.{} can",
            release.trim(),
            KERNEL.0,
            KERNEL.1
        ))),
    }
}

/// The first two numbers of a kernel release.
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
#[path = "identity_test.rs"]
mod identity_test;
