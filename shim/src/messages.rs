//! Messages generated from `proto/`: what CRI and containerd send inside an Any.

#![allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
