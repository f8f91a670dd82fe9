//! One seccomp filter for each kind of thread, compiled before the first thread starts.
//!
//! A system call that a policy does not name ends the whole process: the guest has taken over a thread, or a policy is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

use super::worker::ThreadKind;
use super::{capabilities, syscalls};

/// Which argument of ioctl is the request.
const REQUEST_ARGUMENT: u8 = 1;

/// Flags of clone(2) that make something else than a thread of this process: those of new namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

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
    /// Entered first. A filter has one answer to what it does not allow, and this one's does not end the process.
    absent: Option<BpfProgram>,
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
        let requests = list.ioctls.iter().copied();
        only(
            &mut rules,
            libc::SYS_ioctl,
            REQUEST_ARGUMENT,
            SeccompCmpOp::Eq,
            requests,
        )?;
        let options = list.prctls.iter().map(|option| *option as u64);
        only(&mut rules, libc::SYS_prctl, 0, SeccompCmpOp::Eq, options)?;
        // The file server's threads want a working directory of their own; other namespaces would be a way out.
        if rules.contains_key(&libc::SYS_unshare) {
            let own = [libc::CLONE_FS as u64].into_iter();
            only(&mut rules, libc::SYS_unshare, 0, SeccompCmpOp::Eq, own)?;
        }
        // The flags of clone3 lie in memory, where no filter sees them. Without it the C library calls clone.
        let mut absent = None;
        if rules.contains_key(&libc::SYS_clone3) {
            let thread = libc::CLONE_THREAD as u64;
            let flags = SeccompCmpOp::MaskedEq(thread | NAMESPACES as u32 as u64);
            only(&mut rules, libc::SYS_clone, 0, flags, [thread].into_iter())?;
            absent = Some(absence(libc::SYS_clone3)?);
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::KillProcess,
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Arc::new(Policy {
            filter: filter.try_into()?,
            absent,
            keeps_capabilities,
        }))
    }

    /// Calling thread: lives under this policy from now on, for good.
    pub fn enter(&self) -> Result<(), PolicyError> {
        if !self.keeps_capabilities {
            capabilities::drop_all()?;
        }
        if let Some(absent) = &self.absent {
            seccompiler::apply_filter(absent)?;
        }
        Ok(seccompiler::apply_filter(&self.filter)?)
    }
}

/// Allows a call with these values of an argument, and no others; without values, not at all.
fn only(
    rules: &mut BTreeMap<i64, Vec<SeccompRule>>,
    call: i64,
    argument: u8,
    comparison: SeccompCmpOp,
    values: impl Iterator<Item = u64>,
) -> Result<(), seccompiler::BackendError> {
    let rule = |value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison.clone(), value)?;
        SeccompRule::new(vec![condition])
    };
    let allowed: Vec<SeccompRule> = values.map(rule).collect::<Result<_, _>>()?;
    // A call without a rule would be allowed with any arguments.
    match allowed.is_empty() {
        true => rules.remove(&call),
        false => rules.insert(call, allowed),
    };
    Ok(())
}

/// A filter under which the kernel does not know a call.
fn absence(call: i64) -> Result<BpfProgram, seccompiler::BackendError> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        TargetArch::x86_64,
    )?;
    filter.try_into()
}

/// All policies of a process.
#[derive(Debug)]
pub struct Policies {
    main: Arc<Policy>,
    spawner: Arc<Policy>,
    vcpu: Arc<Policy>,
    block: Arc<Policy>,
    memory: Arc<Policy>,
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
            memory: Policy::new(&syscalls::MEMORY, false)?,
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
            ThreadKind::Memory => self.memory.clone(),
            ThreadKind::Vsock => self.vsock.clone(),
            ThreadKind::FileServer => self.file_server.clone(),
        }
    }
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod policy_test;
