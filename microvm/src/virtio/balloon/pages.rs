//! From a buffer to the pages that it names.

use vm_memory::GuestAddress;

use crate::memory::PAGE_SIZE;
use crate::virtio::buffers::{Buffers, MAX_PIECES};
use crate::virtio::ring::Chain;

/// Most page numbers of one buffer that are looked at; Linux sends 256.
pub const MAX_NUMBERS: usize = 1024;

/// Unit of page numbers in bytes, whatever the guest's pages are (virtio 1.2, 5.5.6).
const BALLOON_PAGE: u64 = 4096;

/// Consecutive pages; they may lie anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte.
    pub start: GuestAddress,
    /// Bytes.
    pub length: usize,
}

/// The memory of which a buffer of the reporting queue consists (5.5.6.7): of each of its writable pieces, the whole pages.
pub fn reported<'m>(chain: Chain<'m>) -> impl Iterator<Item = Run> + use<'m> {
    chain
        .take(MAX_PIECES)
        .filter(|piece| piece.is_write_only())
        .filter_map(|piece| whole_pages(piece.addr(), piece.len()))
}

fn whole_pages(start: GuestAddress, length: u32) -> Option<Run> {
    let end = start.0.checked_add(length.into())? / PAGE_SIZE * PAGE_SIZE;
    let first = start.0.checked_next_multiple_of(PAGE_SIZE)?;
    let length = end.checked_sub(first).filter(|length| *length > 0)?;
    Some(Run {
        start: GuestAddress(first),
        length: length as usize,
    })
}

/// The pages whose numbers a buffer of the inflate queue holds.
pub fn inflated(buffer: &Buffers<'_>) -> Vec<Run> {
    let mut bytes = vec![0u8; buffer.len().min(MAX_NUMBERS * size_of::<u32>())];
    buffer.copy_to(&mut bytes);
    let (numbers, _) = bytes.as_chunks();
    let page = |number: &[u8; 4]| Run {
        start: GuestAddress(u64::from(u32::from_le_bytes(*number)) * BALLOON_PAGE),
        length: BALLOON_PAGE as usize,
    };
    numbers.iter().map(page).collect()
}

#[cfg(test)]
#[path = "pages_test.rs"]
mod pages_test;
