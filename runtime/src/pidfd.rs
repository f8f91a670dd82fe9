//! Processes by descriptor: a pid can be reused by the kernel, a pidfd cannot.

// `pidfd_open` and `pidfd_send_signal` have no safe wrapper in the crates we use.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// One process, alive or ended.
#[derive(Debug)]
pub(crate) struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// The process that has this pid now.
    pub(crate) fn open(pid: u32) -> Result<PidFd, Errno> {
        let number = libc::pid_t::try_from(pid).map_err(|_| Errno::ESRCH)?;
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) })?;
        let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just made this descriptor (close-on-exec) for us and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(PidFd { pid, fd })
    }

    /// The process as recorded earlier: only if the one that has the pid now was also started then.
    pub(crate) fn open_recorded(pid: u32, start_time: u64) -> Result<PidFd, Errno> {
        let process = PidFd::open(pid)?;
        // Read after the descriptor was opened: if the number was reused before, the start time differs; after that it cannot
        // matter, because the descriptor stays with the process it was opened for.
        if start_time_of(pid) == Some(start_time) && !process.wait_ended(Duration::ZERO)? {
            return Ok(process);
        }
        Err(Errno::ESRCH)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Fails with ESRCH once the process has ended and was reaped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        // SAFETY: with a null siginfo the call reads no memory of ours.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Blocks until the process has ended or the time is over; whether it has ended.
    pub(crate) fn wait_ended(&self, timeout: Duration) -> Result<bool, Errno> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() || Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether the process is a child of ours (also one that was reparented to us).
    pub(crate) fn is_child(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(self.fd.as_fd()), flags).is_ok()
    }

    /// Takes the wait status of an ended child; `None` if it has not ended, is no child, or somebody else took it.
    pub(crate) fn reap(&self) -> Option<WaitStatus> {
        match waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::StillAlive) | Err(_) => None,
            Ok(status) => Some(status),
        }
    }

    /// Kills the process and waits for its end, at most `timeout`; whether it has ended.
    pub(crate) fn kill(&self, timeout: Duration) -> bool {
        let _ = self.signal(Signal::SIGKILL);
        let ended = self.wait_ended(timeout).unwrap_or(false);
        self.reap();
        ended
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// When a process was started, in clock ticks since the boot (field 22 of /proc/PID/stat); `None` if there is none.
pub(crate) fn start_time_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, also spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
#[path = "pidfd_test.rs"]
mod pidfd_test;
