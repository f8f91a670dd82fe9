//! The host's ids that a pod's monitor and files have: ranges of its own for each living pod.
//!
//! A pod's ids 0 to 65535, those behind its containers' user namespaces, and the higher ones that its containers' specifications
//! name, stand for ids of the host that nobody else has. The monitor lives in a user namespace of these and owns nothing else on the
//! host; a pod's files are mounted with its map (see `rootfs`), so that their owners on the disk are what they would be without it.
//! That namespace's map is made once, and containers come later: so the monitor has places for higher ids, and is told which id has
//! which ([`Identity::placed`]); what user namespaces of later containers stand for must be known from the start.
//!
//! Where files cannot be mapped so (a root file system that is an overlay already, as Docker's; a network file system), the map is
//! the identity: the log and the pod's record say so, and the config can forbid it.
//!
//! Everything here blocks.

mod file_map;
mod guest_ids;
mod namespace;
mod pool;
mod subordinate;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bulkhead_vmm_control::{FIRST_PLACE, IdExtent};

pub(crate) use file_map::{FileMap, Shift};
pub use guest_ids::GuestIds;
pub(crate) use pool::release;

use crate::config::{Config, IdMapping};
use crate::error::{Error, Result};
use crate::pod::{ContainerSpec, PodSpec, Undo};
use crate::{rootfs, spec, volumes};

/// Ids of a pod that are always mapped, and of which its first range on the host begins with as many.
const LOW: u32 = 65_536;

/// Higher ids that a pod can have besides, each on a line of at most 24 bytes in the map of its files, where a range has 28: a map must
/// be shorter than a page (user_namespaces(7)).
const HIGH: usize = 160;

/// Host ids that a pod takes at a time.
const RANGE: u32 = LOW + HIGH as u32;

/// Most lines that a pod's map can have for what user namespaces and mounts stand for.
const MORE_LINES: usize = 8;

/// Pods with this annotation set to "never" keep the host's ids, where the config allows it.
pub(crate) const ANNOTATION: &str = "io.bulkhead.id_mapping";

/// The first kernel that maps all that a pod commonly has: overlays (5.19), and files on a tmpfs, such as Kubernetes' secrets.
pub(crate) const KERNEL: (u32, u32) = (6, 3);

/// Who a pod is on the host. Users and groups have the same map.
#[derive(Debug)]
pub(crate) struct Identity(Option<Own>);

#[derive(Debug)]
struct Own {
    /// First ids of its ranges on the host.
    bases: Vec<u32>,
    /// Ids of the guest that are mapped from the start: the low ones, then those behind user namespaces.
    known: Vec<IdExtent>,
    placed: Mutex<Placed>,
    /// Until the monitor has them.
    locks: Mutex<Vec<OwnedFd>>,
}

/// The other ids, which have places, and how files are mapped with all of them.
#[derive(Debug)]
struct Placed {
    ids: Vec<u32>,
    files: FileMap,
}

impl Identity {
    /// The host's own ids.
    pub(crate) const HOST: Identity = Identity(None);

    /// Takes ranges for a pod, unless the files of its first container, if it has one, cannot be mapped. Given back by `undo`,
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

    /// First ids of its ranges on the host; empty: the host's own ids.
    pub(crate) fn bases(&self) -> Vec<u32> {
        self.0.as_ref().map_or_else(Vec::new, |own| own.bases.clone())
    }

    /// Lines of the monitor's uid_map and gid_map.
    pub(crate) fn extents(&self) -> Vec<IdExtent> {
        let Some(own) = &self.0 else { return vec![IdExtent::ALL] };
        let mut lines = own.known.clone();
        lines.extend(own.bases.first().map(|base| places(*base)));
        lines
    }

    /// The ids that have places in the monitor, in the order of these.
    pub(crate) fn placed(&self) -> Vec<u32> {
        self.0.as_ref().map_or_else(Vec::new, |own| own.placed().ids.clone())
    }

    /// How the files of a container with these ids are to be mapped, which get places; `None`: not at all. The monitor must know the
    /// places before the container is made.
    pub(crate) fn files_of(&self, ids: &GuestIds) -> Result<Option<FileMap>> {
        let Some(own) = &self.0 else { return Ok(None) };
        own.check(&ids.high_ranges())?;
        own.place(&ids.high_single()).map(Some)
    }

    /// What the monitor has to hold as long as it lives: nobody else gets the ranges until it has ended. Once.
    pub(crate) fn take_locks(&self) -> Vec<OwnedFd> {
        let Some(own) = &self.0 else { return Vec::new() };
        std::mem::take(&mut *own.locks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Placed {
    fn new(known: &[IdExtent], bases: &[u32], ids: Vec<u32>) -> Result<Placed> {
        if ids.len() > HIGH {
            return Err(Error::invalid(format!(
                "the pod's containers name {} user and group ids above {}, at most {HIGH} are possible",
                ids.len(),
                LOW - 1
            )));
        }
        let first = bases.iter().take(1).flat_map(|base| base + LOW..);
        let places = first.zip(&ids).map(|(outside, inside)| IdExtent {
            inside: *inside,
            outside,
            count: 1,
        });
        let lines: Vec<IdExtent> = known.iter().copied().chain(places).collect();
        Ok(Placed {
            files: FileMap::of_pod(&lines)?,
            ids,
        })
    }
}

fn without_known(ids: &BTreeSet<u32>, known: &[IdExtent]) -> Vec<u32> {
    let is_known = |id: &u32| known.iter().any(|extent| extent.contains(*id));
    ids.iter().copied().filter(|id| !is_known(id)).collect()
}

impl Own {
    /// Ranges by which the container's files can be mapped. The inner error says what of them cannot; then nothing is taken.
    fn for_files(
        pod: &PodSpec,
        first: Option<&ContainerSpec>,
        config: &Config,
        undo: &mut Undo,
    ) -> Result<std::result::Result<Own, Error>> {
        let layout = match layout(&pod.ids.high_ranges()) {
            Ok(layout) => layout,
            Err(cause) => return Ok(Err(cause)),
        };
        let mut step = Undo::default();
        let own = Own::take(config, &layout, &pod.ids.high_single(), &mut step)?;
        match first.map_or(Ok(()), |first| own.try_map(first)) {
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

    /// Takes a range for each part of the layout, and gives places to `high`.
    fn take(config: &Config, layout: &[Vec<IdExtent>], high: &BTreeSet<u32>, undo: &mut Undo) -> Result<Own> {
        let ranges = subordinate::ranges(Path::new("/etc"))?;
        let (mut bases, mut known, mut locks) = (Vec::new(), Vec::new(), Vec::new());
        for part in layout {
            let (base, theirs) = pool::take(&config.ids_dir, &ranges, undo)?;
            bases.push(base);
            locks.push(theirs);
            known.extend(part.iter().map(|extent| IdExtent {
                outside: base + extent.outside,
                ..*extent
            }));
        }
        let placed = Placed::new(&known, &bases, without_known(high, &known))?;
        Ok(Own {
            bases,
            known,
            placed: Mutex::new(placed),
            locks: Mutex::new(locks),
        })
    }

    fn placed(&self) -> MutexGuard<'_, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what was not known when the pod began.
    fn check(&self, ranges: &[RangeInclusive<u32>]) -> Result<()> {
        for range in ranges {
            let mut next = *range.start();
            while next <= *range.end() {
                let Some(extent) = self.known.iter().find(|extent| extent.contains(next)) else {
                    return Err(Error::invalid(format!(
                        "id {next}, for which the container's user namespace or a mount has one of its own, is not among those that the \
                         pod began with: give its sandbox or first container the same user namespace, or annotate the pod with \
                         {ANNOTATION}: \"never\""
                    )));
                };
                next = extent.inside.saturating_add(extent.count);
            }
        }
        Ok(())
    }

    /// Gives those of some ids places that need one and have none.
    fn place(&self, ids: &BTreeSet<u32>) -> Result<FileMap> {
        let mut placed = self.placed();
        let mut all = placed.ids.clone();
        all.extend(
            without_known(ids, &self.known)
                .iter()
                .filter(|id| !placed.ids.contains(id)),
        );
        if all.len() > placed.ids.len() {
            *placed = Placed::new(&self.known, &self.bases, all)?;
        }
        Ok(placed.files.clone())
    }

    /// Fails with what of the container's files cannot be mapped. Whatever else is wrong with them is found when they are mounted.
    fn try_map(&self, container: &ContainerSpec) -> Result<()> {
        let root = spec::text(&container.spec, "/root/path");
        let files = self.placed().files.clone();
        rootfs::try_map(&container.rootfs, &container.bundle, root, &files)?;
        volumes::try_map(&container.spec, &container.bundle, &files)
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

/// Where the ids of a pod lie in its ranges, counted from the beginning of each: the low ones in the first, these in further ones, each
/// piece where it fits as a whole.
fn layout(ranges: &[RangeInclusive<u32>]) -> Result<Vec<Vec<IdExtent>>> {
    let mut layout = vec![vec![IdExtent {
        inside: 0,
        outside: 0,
        count: LOW,
    }]];
    let mut lines = 0;
    // In the range that is being filled.
    let mut further: Vec<IdExtent> = Vec::new();
    for range in ranges {
        let mut first = *range.start();
        while first <= *range.end() {
            lines += 1;
            if lines > MORE_LINES || *range.end() >= FIRST_PLACE {
                return Err(Error::invalid(format!(
                    "the user namespaces of its containers and their mounts stand for more ids than fit into {MORE_LINES} pieces of \
                     {RANGE}, or for some above {}",
                    FIRST_PLACE - 1
                )));
            }
            let count = RANGE.min(range.end() - first + 1);
            let used = further.last().map_or(0, |extent| extent.outside + extent.count);
            let fits = used + count <= RANGE;
            if !fits {
                layout.push(std::mem::take(&mut further));
            }
            further.push(IdExtent {
                inside: first,
                outside: if fits { used } else { 0 },
                count,
            });
            first += count;
        }
    }
    layout.extend((!further.is_empty()).then_some(further));
    Ok(layout)
}

/// The line of the monitor's map for the places, which are behind the low ids of the range that begins with `base`.
fn places(base: u32) -> IdExtent {
    IdExtent {
        inside: FIRST_PLACE,
        outside: base + LOW,
        count: HIGH as u32,
    }
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
