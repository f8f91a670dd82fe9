//! The two files every machine is made of: opened, and recognised by their first bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

const ELF_MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];
/// EROFS super block: magic number, little endian, at byte 1024.
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
const EROFS_OFFSET: u64 = 1024;

/// Opens the guest kernel.
pub(crate) fn open_kernel(path: &Path) -> Result<File> {
    open(
        path,
        "guest kernel",
        "kernel",
        0,
        ELF_MAGIC,
        "no ELF file: an uncompressed vmlinux is needed, not a bzImage",
    )
}

/// Opens the image with the guest's agent.
pub(crate) fn open_agent(path: &Path) -> Result<File> {
    open(
        path,
        "agent image",
        "agent_image",
        EROFS_OFFSET,
        EROFS_MAGIC,
        "no erofs image",
    )
}

fn open(path: &Path, what: &str, key: &str, offset: u64, magic: [u8; 4], otherwise: &str) -> Result<File> {
    let remedy = format!("install it there, or correct \"{key}\" in the config file");
    let file = File::open(path).map_err(|e| {
        let cause = format!("{e} ({remedy})");
        Error::io(&format!("cannot open the {what}"), path, e).caused_by(cause)
    })?;
    let mut start = [0u8; 4];
    if file.read_exact_at(&mut start, offset).is_err() || start != magic {
        return Err(Error::invalid(format!(
            "the {what} {} is {otherwise} ({remedy})",
            path.display()
        )));
    }
    Ok(file)
}
