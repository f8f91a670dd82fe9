//! virtio-fs (virtio 1.2, 5.11): queues and threads around the [file server](crate::file_server).

mod device;
mod pool;

pub use device::{FsDevice, FsDeviceError};

#[cfg(test)]
mod crowd_test;
#[cfg(test)]
mod fs_test;
#[cfg(test)]
mod guest_test;
#[cfg(test)]
mod locks_test;
#[cfg(test)]
mod unnamed_test;
