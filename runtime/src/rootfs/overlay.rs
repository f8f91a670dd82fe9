//! Overlays whose layers are mapped mounts, or too many for one page of mount options: they are mounted apart, where each layer has
//! a short name and nobody else sees the mapped copies.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::apart;
use super::tree::{self, Manner};
use crate::identity::FileMap;

/// The folders of an overlay, and what else its options say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layers {
    lower: Vec<PathBuf>,
    upper: Option<Upper>,
    rest: Vec<String>,
}

/// How the folders of an overlay are mapped; `None`: not at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerMaps<'a> {
    pub(super) lower: Option<&'a FileMap>,
    pub(super) upper: Option<&'a FileMap>,
}

/// Upper folder and work folder, which lie beside each other.
#[derive(Debug, PartialEq, Eq)]
struct Upper {
    parent: PathBuf,
    upper: String,
    work: String,
}

impl Layers {
    /// Reads the options of an overlay; `None` when its folders are not named in the plain way that snapshotters do.
    pub(super) fn of(data: &[String]) -> Option<Layers> {
        let (mut lower, mut upper, mut work, mut rest) = (Vec::new(), None, None, Vec::new());
        for option in data {
            match option.split_once('=') {
                Some(("lowerdir", folders)) => lower = folders.split(':').map(PathBuf::from).collect(),
                Some(("upperdir", folder)) => upper = Some(PathBuf::from(folder)),
                Some(("workdir", folder)) => work = Some(PathBuf::from(folder)),
                // One folder each, as new kernels take them.
                Some(("lowerdir+" | "datadir+", _)) => return None,
                _ => rest.push(option.clone()),
            }
        }
        let upper = match (upper, work) {
            (Some(upper), Some(work)) => Some(Upper::of(&upper, &work)?),
            (None, None) => None,
            _ => return None,
        };
        let plain = |folder: &PathBuf| folder.is_absolute() && !folder.to_string_lossy().contains(['\\', ',']);
        let all = upper.iter().map(|upper| &upper.parent).chain(&lower);
        (!lower.is_empty() && all.into_iter().all(plain)).then_some(Layers { lower, upper, rest })
    }

    /// The folders that are mapped, each once.
    pub(super) fn folders(&self) -> BTreeSet<&Path> {
        let upper = self.upper.iter().map(|upper| upper.parent.as_path());
        upper.chain(self.lower.iter().map(PathBuf::as_path)).collect()
    }

    /// Mounts them; `scratch` as for [`apart::mount`].
    pub(super) fn mount(
        self,
        source: &str,
        flags: MsFlags,
        scratch: &Path,
        maps: LayerMaps<'_>,
    ) -> Result<OwnedFd, Errno> {
        apart::mount(scratch, || self.mount_here(source, flags, maps))
    }

    fn mount_here(&self, source: &str, flags: MsFlags, maps: LayerMaps<'_>) -> Result<OwnedFd, Errno> {
        let place = |folder: &Path, name: &str, map: Option<&FileMap>| {
            apart::make_folder(name)?;
            tree::attach(&tree::copy(folder, &Manner::alone(map))?, name.as_ref())
        };
        let names: Vec<String> = (0..self.lower.len()).map(|number| number.to_string()).collect();
        for (folder, name) in self.lower.iter().zip(&names) {
            place(folder, name, maps.lower)?;
        }
        let mut data = self.rest.clone();
        data.push(format!("lowerdir={}", names.join(":")));
        if let Some(Upper { parent, upper, work }) = &self.upper {
            place(parent, "u", maps.upper)?;
            data.push(format!("upperdir=u/{upper}"));
            data.push(format!("workdir=u/{work}"));
        }
        apart::make_folder("m")?;
        if let Some(map) = maps.upper {
            // The overlay works with the rights of whoever mounts it, who must have an id in the map.
            tree::act_as(map.root())?;
        }
        mount(Some(source), "m", Some("overlay"), flags, Some(data.join(",").as_str()))?;
        // An overlay that cannot use its work folder is mounted nevertheless, but nothing can be written.
        let wanted = self.upper.is_some() && !flags.contains(MsFlags::MS_RDONLY);
        if wanted && statvfs("m")?.flags().contains(FsFlags::ST_RDONLY) {
            return Err(Errno::EROFS);
        }
        tree::copy("m".as_ref(), &Manner::alone(None))
    }
}

impl Upper {
    fn of(upper: &Path, work: &Path) -> Option<Upper> {
        let parent = upper.parent()?;
        let name = |folder: &Path| Some(folder.file_name()?.to_str()?.to_owned());
        (work.parent() == Some(parent)).then_some(Upper {
            parent: parent.to_owned(),
            upper: name(upper)?,
            work: name(work)?,
        })
    }
}

#[cfg(test)]
#[path = "overlay_test.rs"]
mod overlay_test;
