//! The descriptors of the Boot request, sorted.

use std::fs::File;
use std::os::fd::OwnedFd;

use bulkhead_vmm_control::{BootFd, VmSpec};
use thiserror::Error;

/// What is wrong with the descriptors.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BootFdsError {
    /// Numbers differ.
    #[error("boot request names {named} descriptors and brings {brought}")]
    Count {
        /// In `VmSpec::fds`.
        named: usize,
        /// In the packet.
        brought: usize,
    },
    /// One is needed.
    #[error("boot request without {0}")]
    Missing(&'static str),
    /// One too many.
    #[error("boot request with two descriptors of kind {0:?}")]
    Twice(BootFd),
    /// Numbers differ.
    #[error("boot request names {specs} disks and brings {brought}")]
    Disks {
        /// In `VmSpec::disks`.
        specs: usize,
        /// Descriptors.
        brought: usize,
    },
}

/// Descriptors by use.
#[derive(Debug)]
pub struct BootFds {
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// vmlinux.
    pub kernel: File,
    /// The agent's image.
    pub agent_image: File,
    /// Root of the jail.
    pub share: OwnedFd,
    /// Network namespace; `None`: a new, empty one.
    pub network: Option<OwnedFd>,
    /// In the order of `VmSpec::disks`.
    pub disks: Vec<File>,
    /// Kept open.
    pub ids_locks: Vec<OwnedFd>,
    /// Console output.
    pub console_log: Option<File>,
}

impl BootFds {
    /// Sorts the descriptors of a packet.
    pub fn sort(spec: &VmSpec, fds: Vec<OwnedFd>) -> Result<BootFds, BootFdsError> {
        if spec.fds.len() != fds.len() {
            return Err(BootFdsError::Count {
                named: spec.fds.len(),
                brought: fds.len(),
            });
        }
        let (mut kvm, mut kernel, mut agent_image, mut share) = (None, None, None, None);
        let (mut network, mut console_log) = (None, None);
        let (mut disks, mut ids_locks) = (Vec::new(), Vec::new());
        for (kind, fd) in spec.fds.iter().zip(fds) {
            let slot = match kind {
                BootFd::Disk => {
                    disks.push(File::from(fd));
                    continue;
                }
                BootFd::IdsLock => {
                    ids_locks.push(fd);
                    continue;
                }
                BootFd::Kvm => &mut kvm,
                BootFd::Kernel => &mut kernel,
                BootFd::AgentImage => &mut agent_image,
                BootFd::Share => &mut share,
                BootFd::NetworkNamespace => &mut network,
                BootFd::ConsoleLog => &mut console_log,
            };
            if slot.replace(fd).is_some() {
                return Err(BootFdsError::Twice(*kind));
            }
        }
        if disks.len() != spec.disks.len() {
            return Err(BootFdsError::Disks {
                specs: spec.disks.len(),
                brought: disks.len(),
            });
        }
        Ok(BootFds {
            kvm: kvm.ok_or(BootFdsError::Missing("/dev/kvm"))?,
            kernel: kernel.ok_or(BootFdsError::Missing("a kernel"))?.into(),
            agent_image: agent_image.ok_or(BootFdsError::Missing("an agent image"))?.into(),
            share: share.ok_or(BootFdsError::Missing("a share"))?,
            network,
            disks,
            ids_locks,
            console_log: console_log.map(File::from),
        })
    }
}

#[cfg(test)]
#[path = "boot_fds_test.rs"]
mod boot_fds_test;
