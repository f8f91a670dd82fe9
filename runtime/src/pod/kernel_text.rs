//! The text and constants of the guests' kernel, which the host keeps once for all pods.
//!
//! A kernel fits its text to the CPU when it boots, so that each pod has pages of its own. Afterwards they are the same in all pods: the
//! first one saves them to a file, and each exchanges what it has in the same way for pages of the file.
//!
//! Distrusts the monitor: what it saves is copied before anybody uses it, and a pod uses nothing of it but what it has itself.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read, Seek, copy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use super::calls::Pod;
use crate::config::Config;
use crate::error::{Error, Result, blocking};
use crate::rootfs::read_only;
use crate::state::{private_folder, remove};

/// Below the state folder; no namespace begins with a dot.
const FOLDER: &str = ".kernel-text";
/// Most that is kept of what a monitor has saved, bytes.
const MOST: u64 = 64 << 20;
/// Files that are kept: kernels that came after each other, or have different parameters.
const KEPT: usize = 4;

impl Pod {
    /// Exchanges the pod's own pages of the kernel's text for the host's.
    pub(super) async fn share_kernel_text(&self) -> Result<()> {
        let config = &self.sizes.config;
        if !config.share_kernel {
            return Ok(());
        }
        let (config, vcpus) = (config.clone(), self.sizes.most.vcpus);
        let (place, known) = blocking("opening the kernel's text", move || {
            let place = Place::of(&config, vcpus)?;
            let known = place.open()?;
            Ok((place, known))
        })
        .await?;
        let text = match known {
            Some(text) => text,
            None => {
                let scratch = scratch()?;
                let theirs = scratch.try_clone().map_err(|e| place.failed("cannot use", e))?;
                self.vmm.unless_ended(self.vmm.save_text(theirs.into())).await?;
                let place = place.clone();
                blocking("keeping the kernel's text", move || place.keep(scratch)).await?
            }
        };
        let size = text.metadata().map_err(|e| place.failed("cannot look at", e))?.len();
        let shared = self.vmm.unless_ended(self.vmm.share_text(text.into())).await?;
        if shared < size / 2 {
            // Whoever saved it was not like others; the next pod saves its own.
            blocking("removing the kernel's text", move || place.remove()).await?;
        }
        tracing::debug!("pod {}: {} KiB of its kernel are the host's", self.id, shared >> 10);
        Ok(())
    }
}

/// Where the text of one kernel with one command line is.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    name: String,
}

impl Place {
    /// Of a machine with one vCPU the text is another one.
    fn of(config: &Config, vcpus: u8) -> Result<Place> {
        let mut hasher = DefaultHasher::new();
        (vcpus > 1).hash(&mut hasher);
        for program in [&config.kernel, &config.vmm] {
            let file = std::fs::metadata(program).map_err(|e| Error::io("cannot look at", program, e))?;
            (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
        }
        config.kernel_parameters.hash(&mut hasher);
        Ok(Place {
            folder: config.state_dir.join(FOLDER),
            name: format!("{:016x}", hasher.finish()),
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn failed(&self, what: &'static str, error: std::io::Error) -> Error {
        Error::io(what, &self.path(), error)
    }

    /// `None`: nobody has saved it yet. Through a mount that is read-only: a monitor that has the host's ids cannot open what it is given
    /// once more, to write to it.
    fn open(&self) -> Result<Option<File>> {
        let folder = match read_only(&self.folder) {
            Err(Errno::ENOENT) => return Ok(None),
            folder => folder.map_err(|e| self.failed("cannot open the folder of", e.into()))?,
        };
        match openat(
            &folder,
            self.name.as_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed("cannot open", errno.into())),
        }
    }

    /// Keeps a copy of what a monitor has written to `scratch`, which it may still write to; another pod may have been faster.
    fn keep(&self, mut scratch: File) -> Result<File> {
        let mut kept = || -> std::io::Result<()> {
            match private_folder().create(&self.folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            scratch.rewind()?;
            if copy(&mut (&scratch).take(MOST + 1), &mut file)? > MOST {
                return Err(std::io::Error::other(format!("it has more than {MOST} bytes")));
            }
            match file.persist_noclobber(self.path()) {
                Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
                _ => Ok(()),
            }
        };
        if let Err(error) = kept() {
            // Where there is no room for the file, the folder is of no use; others may have something in it.
            let _ = std::fs::remove_dir(&self.folder);
            return Err(self.failed("cannot keep", error));
        }
        if let Err(error) = remove_old(&self.folder, &self.path(), KEPT - 1) {
            tracing::debug!("old files stay: {error}");
        }
        self.open()?
            .ok_or_else(|| self.failed("cannot open", ErrorKind::NotFound.into()))
    }

    fn remove(&self) -> Result<()> {
        remove(&self.path(), |p| std::fs::remove_file(p))
    }
}

/// Memory that a monitor may write to. In no file system, which it could fill.
fn scratch() -> Result<File> {
    let scratch = memfd_create(c"kernel-text", MFdFlags::MFD_CLOEXEC);
    Ok(scratch
        .map_err(|e| Error::internal("cannot make a file in memory").caused_by(e))?
        .into())
}

/// Removes all but the newest `kept` files, and one; who uses a file goes on using it.
fn remove_old(folder: &Path, but: &Path, kept: usize) -> Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(folder)
        .map_err(|e| Error::io("cannot list", folder, e))?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, path)| path != but)
        .collect();
    files.sort();
    let old = files.len().saturating_sub(kept);
    for (_, path) in files.into_iter().take(old) {
        remove(&path, |p| std::fs::remove_file(p))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "kernel_text_test.rs"]
mod kernel_text_test;
