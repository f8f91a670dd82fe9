//! The host's ids that a pod's monitor and files have: a range of its own for each living pod.
//!
//! A pod's ids 0 to 65535, and the higher ones that its specification names, stand for ids of the host that nobody else has. The
//! monitor lives in a user namespace with that map and owns nothing else on the host; its files are mounted with the same map
//! (see `rootfs`), so that their owners on the disk are what they would be without it.
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
use std::sync::{Mutex, PoisonError};

use bulkhead_vmm_control::IdExtent;
use serde_json::Value;

pub(crate) use pool::release;

use crate::config::{Config, IdMapping};
use crate::error::{Error, Result};
use crate::pod::{ContainerSpec, PodSpec, Undo};
use crate::{rootfs, spec, volumes};

/// Ids of a pod that are always mapped, and of which a range on the host begins with as many.
const LOW: u32 = 65_536;

/// Higher ids that a pod can have besides, each on a line of at most 24 bytes: a map must be shorter than a page
/// (user_namespaces(7)).
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
    extents: Vec<IdExtent>,
    namespace: OwnedFd,
    /// Until the monitor has it.
    lock: Mutex<Option<OwnedFd>>,
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
            Some(own) => own.extents.clone(),
            None => vec![IdExtent {
                inside: 0,
                outside: 0,
                count: u32::MAX,
            }],
        }
    }

    /// How files are to be mapped; `None`: not at all.
    pub(crate) fn map(&self) -> Option<rootfs::Map<'_>> {
        self.0.as_ref().map(Own::map)
    }

    /// What the monitor has to hold as long as it lives: nobody else gets the range until it has ended. Once.
    pub(crate) fn take_lock(&self) -> Option<OwnedFd> {
        let own = self.0.as_ref()?;
        own.lock.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Refuses a further process whose ids have no place in the range, which cannot grow.
    pub(crate) fn check(&self, process: Option<&Value>) -> Result<()> {
        let Some(own) = &self.0 else { return Ok(()) };
        let mapped = |id: &u32| own.extents.iter().any(|e| e.inside <= *id && id - e.inside < e.count);
        match high(&ids_of(process)).iter().find(|id| !mapped(id)) {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "user or group {id} is not among the ids of the pod, which are 0 to {} and the higher ones that its first process \
                 has: give it this id (in Kubernetes by runAsUser of the pod), or annotate the pod with {ANNOTATION}: \"never\"",
                LOW - 1
            ))),
        }
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
        let own = Own::take(config, &high(&pod.ids), &mut step)?;
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

    fn take(config: &Config, high: &BTreeSet<u32>, undo: &mut Undo) -> Result<Own> {
        if high.len() > HIGH {
            return Err(Error::invalid(format!(
                "the pod names {} user and group ids above {}, at most {HIGH} are possible",
                high.len(),
                LOW - 1
            )));
        }
        let ranges = subordinate::ranges(Path::new("/etc"))?;
        let (base, theirs) = pool::take(&config.ids_dir, &ranges, undo)?;
        let extents = extents(base, high);
        let namespace = namespace::with_map(&extents).map_err(|e| {
            Error::internal(format!("cannot make a user namespace for the ids from {base}")).caused_by(e)
        })?;
        Ok(Own {
            base,
            extents,
            namespace,
            lock: Mutex::new(Some(theirs)),
        })
    }

    fn map(&self) -> rootfs::Map<'_> {
        rootfs::Map {
            namespace: self.namespace.as_fd(),
            root: self.base,
        }
    }

    /// Fails with what of the container's files cannot be mapped. Whatever else is wrong with them is found when they are mounted.
    fn try_map(&self, container: &ContainerSpec, spec: &Value) -> Result<()> {
        let root = spec::text(spec, "/root/path");
        rootfs::try_map(&container.rootfs, &container.bundle, root, self.map())?;
        volumes::try_map(spec, &container.bundle, self.map())
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

/// The map of a range that begins with `base`: the low ids as they are, each of the higher ones behind them.
fn extents(base: u32, high: &BTreeSet<u32>) -> Vec<IdExtent> {
    let low = IdExtent {
        inside: 0,
        outside: base,
        count: LOW,
    };
    let high = (base + LOW..).zip(high).map(|(outside, inside)| IdExtent {
        inside: *inside,
        outside,
        count: 1,
    });
    std::iter::once(low).chain(high).collect()
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
