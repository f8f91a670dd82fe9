//! Descriptors of any sort that tokio tells about.

// tokio's only registration that is not deprecated asks for a promise about the descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owned, registered descriptor.
pub(crate) type Watched<F> = AsyncFd<Owner<F>>;

/// Holds the descriptor for as long as it is registered.
#[derive(Debug)]
pub(crate) struct Owner<F>(F);

impl<F> std::ops::Deref for Owner<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F: AsFd> AsRawFd for Owner<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers a non-blocking descriptor. Needs a tokio runtime around it.
pub(crate) fn watch<F: AsFd>(fd: F, interest: Interest) -> io::Result<Watched<F>> {
    // SAFETY: `Owner` owns `fd` and gives it out only by reference, so the descriptor stays open and the same until the
    // registration ends; this crate calls it with sockets, pipes, timers, control channels and files of /proc, which own one descriptor each.
    unsafe { AsyncFd::register_with_interest(Owner(fd), interest) }.map_err(|e| e.into_parts().1)
}
