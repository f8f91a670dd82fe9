//! One seccomp filter for each kind of thread, compiled before the first thread starts.
//!
//! A system call that a policy does not name ends the whole process: the guest has taken over a thread, or a policy is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

use super::worker::ThreadKind;
use super::{capabilities, syscalls};

/// Which argument of ioctl is the request.
const REQUEST_ARGUMENT: u8 = 1;

/// Why a policy could not be made or entered.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// Compiling failed: an error of this program.
    #[error("seccomp: cannot compile a policy: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused.
    #[error("seccomp: cannot enter a policy: {0}")]
    Enter(#[from] seccompiler::Error),
    /// Capabilities could not be dropped.
    #[error("cannot drop the capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
}

/// What a thread may do.
#[derive(Debug)]
pub struct Policy {
    filter: BpfProgram,
    keeps_capabilities: bool,
}

impl Policy {
    fn new(list: &syscalls::List, keeps_capabilities: bool) -> Result<Arc<Policy>, PolicyError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = list
            .groups
            .iter()
            .copied()
            .flatten()
            .map(|call| (*call, Vec::new()))
            .collect();
        let mut requests = Vec::new();
        for request in list.ioctls {
            let condition =
                SeccompCondition::new(REQUEST_ARGUMENT, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *request)?;
            requests.push(SeccompRule::new(vec![condition])?);
        }
        rules.insert(nix::libc::SYS_ioctl, requests);
        // The file server's threads want a working directory of their own; other namespaces would be a way out.
        if let Some(unshare) = rules.get_mut(&nix::libc::SYS_unshare) {
            let only = nix::libc::CLONE_FS as u64;
            let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, only)?;
            unshare.push(SeccompRule::new(vec![condition])?);
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Arc::new(Policy {
            filter: filter.try_into()?,
            keeps_capabilities,
        }))
    }

    /// Calling thread: lives under this policy from now on, for good.
    pub fn enter(&self) -> Result<(), PolicyError> {
        if !self.keeps_capabilities {
            capabilities::drop_all()?;
        }
        Ok(seccompiler::apply_filter(&self.filter)?)
    }
}

/// All policies of a process.
#[derive(Debug)]
pub struct Policies {
    main: Arc<Policy>,
    spawner: Arc<Policy>,
    vcpu: Arc<Policy>,
    block: Arc<Policy>,
    vsock: Arc<Policy>,
    file_server: Arc<Policy>,
}

impl Policies {
    /// Compiles them.
    pub fn new() -> Result<Policies, PolicyError> {
        Ok(Policies {
            main: Policy::new(&syscalls::MAIN, false)?,
            spawner: Policy::new(&syscalls::SPAWNER, true)?,
            vcpu: Policy::new(&syscalls::VCPU, false)?,
            block: Policy::new(&syscalls::BLOCK, false)?,
            vsock: Policy::new(&syscalls::VSOCK, false)?,
            file_server: Policy::new(&syscalls::FILE_SERVER, true)?,
        })
    }

    /// The policy of the main thread, which it enters when the machine is built.
    pub fn main(&self) -> Arc<Policy> {
        self.main.clone()
    }

    /// The policy of the spawner.
    pub fn spawner(&self) -> Arc<Policy> {
        self.spawner.clone()
    }

    /// The policy of a worker.
    pub fn of(&self, kind: ThreadKind) -> Arc<Policy> {
        match kind {
            ThreadKind::Vcpu => self.vcpu.clone(),
            ThreadKind::Block => self.block.clone(),
            ThreadKind::Vsock => self.vsock.clone(),
            ThreadKind::FileServer => self.file_server.clone(),
        }
    }
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod policy_test;
