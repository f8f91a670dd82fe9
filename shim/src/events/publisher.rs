//! Delivery: a queue, and one task that forwards its events to containerd's events service in their order.
//!
//! While containerd is away (it restarts under running pods) the first event is tried again until it is taken or too old, and
//! the rest waits behind it. The queue is bounded: when it is full the oldest out-of-memory event is given up, else the oldest.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use ttrpc::r#async::transport::Socket;

/// Events that wait at most.
const MAX_WAITING: usize = 4096;

/// Topic of out-of-memory events.
const OUT_OF_MEMORY: &str = "/tasks/oom";

/// How long one event is tried before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bound of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between attempts: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Events on their way. Cheap to clone.
#[derive(Clone, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<VecDeque<Envelope>>,
    arrived: Notify,
    delivered: Notify,
}

impl Queue {
    /// Adds an event at the end. Never blocks.
    pub fn push(&self, event: Envelope) {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            // Nobody decides anything by those that a guest can cause without end.
            let dispensable = waiting.iter().skip(1).position(|event| event.topic == OUT_OF_MEMORY);
            waiting.remove(dispensable.map_or(0, |at| at + 1));
            tracing::warn!("containerd takes no events: an old one was given up");
        }
        waiting.push_back(event);
        drop(waiting);
        self.0.arrived.notify_one();
    }

    /// Waits until everything is delivered, at most for `timeout`.
    pub async fn flush(&self, timeout: Duration) {
        let empty = async {
            loop {
                let delivered = self.0.delivered.notified();
                if self.lock().is_empty() {
                    return;
                }
                delivered.await;
            }
        };
        if tokio::time::timeout(timeout, empty).await.is_err() {
            tracing::warn!(events = self.lock().len(), "ends before containerd took all events");
        }
    }

    /// Takes all events out.
    #[cfg(test)]
    pub fn drain(&self) -> Vec<Envelope> {
        self.lock().drain(..).collect()
    }

    async fn first(&self) -> Envelope {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(event) = self.lock().front() {
                return event.clone();
            }
            arrived.await;
        }
    }

    /// Removes `event` if it still stands first.
    fn done(&self, event: &Envelope) {
        let mut waiting = self.lock();
        if waiting.front() == Some(event) {
            waiting.pop_front();
        }
        drop(waiting);
        self.0.delivered.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Envelope>> {
        // Nothing panics while it is held.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The delivering side.
pub struct Publisher {
    queue: Queue,
    address: PathBuf,
    client: Option<EventsClient>,
}

impl Publisher {
    /// Delivers to the events service at `address`, a path with or without `unix://`.
    pub fn new(queue: Queue, address: &str) -> Publisher {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        Publisher {
            queue,
            address: PathBuf::from(path),
            client: None,
        }
    }

    /// Runs for as long as the shim does.
    pub async fn run(mut self) {
        loop {
            let event = self.queue.first().await;
            self.deliver(&event).await;
            self.queue.done(&event);
        }
    }

    async fn deliver(&mut self, event: &Envelope) {
        let give_up = Instant::now() + PATIENCE;
        let (mut pause, longest) = PAUSES;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, self.forward(event)).await;
            let failure = match attempt {
                Ok(Ok(())) => return,
                // containerd has seen the event and does not want it: another attempt would not change that.
                Ok(Err(ttrpc::Error::RpcStatus(status))) if status.code() != ttrpc::Code::UNAVAILABLE => {
                    tracing::warn!(
                        topic = event.topic,
                        message = status.message,
                        "containerd refused an event"
                    );
                    return;
                }
                Ok(Err(e)) => e.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            self.client = None;
            if Instant::now() + pause > give_up {
                tracing::warn!(topic = event.topic, failure, "an event was given up");
                return;
            }
            tracing::debug!(topic = event.topic, failure, "an event waits for containerd");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn forward(&mut self, event: &Envelope) -> ttrpc::Result<()> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let stream = UnixStream::connect(&self.address)
                    .await
                    .map_err(|e| ttrpc::Error::Socket(e.to_string()))?;
                self.client
                    .insert(EventsClient::new(Client::new(Socket::new(stream))))
                    .clone()
            }
        };
        let request = ForwardRequest {
            envelope: MessageField::some(event.clone()),
            ..Default::default()
        };
        client
            .forward(ttrpc::context::with_duration(ATTEMPT_TIMEOUT), &request)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
#[path = "publisher_test.rs"]
mod publisher_test;
