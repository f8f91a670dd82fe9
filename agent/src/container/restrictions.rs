//! What a process gives up just before its program runs: capabilities, and the system calls that its seccomp profile denies.

use super::seccomp;
use libcontainer::capabilities::drop_privileges;
use libcontainer::syscall::syscall::create_syscall;
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Process, Spec};

/// Of one process.
#[derive(Clone)]
pub struct Restrictions {
    capabilities: Option<LinuxCapabilities>,
    seccomp: Option<LinuxSeccomp>,
    no_new_privileges: bool,
}

impl Restrictions {
    /// Those of `process` with the profile of its container.
    pub fn of(process: &Process, seccomp: Option<LinuxSeccomp>) -> Restrictions {
        Restrictions {
            capabilities: process.capabilities().clone(),
            seccomp,
            no_new_privileges: process.no_new_privileges() == Some(true),
        }
    }

    /// Those of a container's init, taken out of its specification: libcontainer's filter knows only what libseccomp does.
    pub fn take(spec: &mut Spec) -> Option<Restrictions> {
        let seccomp = spec.linux_mut().as_mut().and_then(|linux| {
            let profile = linux.seccomp().clone();
            linux.set_seccomp(None);
            profile
        });
        let process = spec.process_mut().as_mut()?;
        let restrictions = Restrictions::of(process, seccomp);
        process.set_capabilities(None);
        Some(restrictions)
    }

    /// Applies them to the calling process, whose user is the final one and which has all capabilities that it ever had. `last` is
    /// what has to be done with the final capabilities. The filter comes after that, or before the capabilities go when the process may
    /// gain privileges and loading a filter therefore needs one.
    pub fn apply<T>(&self, last: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let filter = || self.seccomp.as_ref().map_or(Ok(()), seccomp::load);
        if !self.no_new_privileges {
            filter()?;
        }
        if let Some(capabilities) = &self.capabilities {
            drop_privileges(capabilities, create_syscall().as_ref())
                .map_err(|error| format!("capabilities: {error}"))?;
        }
        let done = last()?;
        if self.no_new_privileges {
            filter()?;
        }
        Ok(done)
    }
}
