//! Block device (virtio 1.2, 5.2) over a file or a block device that the runtime opened.
//!
//! A request is parsed into a typed value with every bound checked (`request`), then performed (`disk`).

mod device;
mod disk;
mod request;

pub use device::BlkDevice;
pub use disk::{Disk, DiskError};

/// Unit of sector numbers in requests and of the capacity, in bytes, whatever the block size.
const SECTOR: u64 = 512;
