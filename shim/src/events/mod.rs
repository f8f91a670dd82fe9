//! Task events: what containerd hears without asking.
//!
//! containerd and its clients count on an order: create before start, start before exit, exit before delete, the exits of added
//! processes before the init's, also for a process that ends before its start has been answered. [`order`] keeps it;
//! [`publisher`] delivers to containerd one after the other and waits for a containerd that is away, without holding up any call.

mod order;
mod publisher;

pub use order::{Order, Process};
pub use publisher::{Publisher, Queue};

use std::time::SystemTime;

use containerd_shim::event::Event as Topic;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::event::Envelope;
use protobuf::MessageDyn;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;

/// Wraps an event for the way to containerd, with the time it happened.
pub fn envelope(namespace: &str, event: &impl Topic) -> Envelope {
    let message: &dyn MessageDyn = event;
    Envelope {
        timestamp: MessageField::some(timestamp(SystemTime::now())),
        namespace: namespace.to_owned(),
        topic: event.topic(),
        event: MessageField::some(Any {
            type_url: message.descriptor_dyn().full_name().to_owned(),
            // Only an unset required field could fail, and proto3 has none.
            value: message.write_to_bytes_dyn().unwrap_or_default(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A host time as protobuf writes it.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: since_epoch.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}
