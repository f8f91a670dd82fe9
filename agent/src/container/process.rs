//! A process of a container, as long as the runtime may ask for it.

use crate::error::{Error, Kind, Result};
use crate::reaper::ExitWatch;
use crate::stdio::Attached;
use nix::unistd::Pid;

/// A started process: alive or ended.
pub struct Process {
    pid: Pid,
    exit: ExitWatch,
    stdio: Attached,
}

impl Process {
    /// `exit` is the reaper's watch of `pid`.
    pub fn new(pid: Pid, exit: ExitWatch, stdio: Attached) -> Self {
        Self { pid, exit, stdio }
    }

    /// The pid that the process has or had.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Its end.
    pub fn exit(&self) -> ExitWatch {
        self.exit.clone()
    }

    /// The pid while it still belongs to this process. The reaper runs on the same thread, so a pid that is returned here
    /// stays taken (by the process or its zombie) until the caller waits for something.
    pub fn living_pid(&self) -> Option<Pid> {
        self.exit.borrow().is_none().then_some(self.pid)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let finished = || Error::new(Kind::NotFound, "process already finished");
        let pid = self.living_pid().ok_or_else(finished)?;
        match crate::sys::send_signal(pid, signal) {
            Err(nix::Error::ESRCH) => Err(finished()),
            result => {
                result.map_err(|errno| Error::internal(format!("cannot send signal {signal} to process {pid}"), &errno))
            }
        }
    }

    /// Sets the terminal's size, in characters.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let side = |characters: u32| u16::try_from(characters).unwrap_or(u16::MAX);
        match self.stdio.resize(side(width), side(height)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("process {} has no terminal", self.pid),
            )),
            Err(error) => Err(Error::internal(
                format!("cannot resize the terminal of process {}", self.pid),
                &error,
            )),
        }
    }
}
