//! Stream connections that have arrived and processes that wait for theirs.
//!
//! The host opens one connection per stream and direction and writes the stream's id first (u64, little endian). The connection
//! and the request that names the id may arrive in either order, so each waits for the other, for a bounded time and in
//! bounded number.

use crate::transport::Listener;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// How long a connection waits for its process, a process for its connection, and a connection for its header.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections whose header has not arrived, or whose process has not come.
const MAX_WAITING: usize = 512;

/// Why a stream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Nobody connected in time.
    #[error("stream {id} was not connected within {} s", PATIENCE.as_secs())]
    Late {
        /// Of the stream.
        id: u64,
    },
    /// Another process waits for the same id.
    #[error("stream {id} is named twice")]
    Duplicate {
        /// Of the stream.
        id: u64,
    },
}

#[derive(Default)]
struct Table {
    /// With the sender whose end tells the connection's task that it was taken.
    arrived: HashMap<u64, (UnixStream, oneshot::Sender<()>)>,
    wanted: HashMap<u64, oneshot::Sender<UnixStream>>,
}

/// The meeting place of connections and processes.
#[derive(Default)]
pub struct Streams {
    table: Mutex<Table>,
}

impl Streams {
    /// Accepts connections for ever. A connection beyond the bound is closed at once.
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        let places = Arc::new(Semaphore::new(MAX_WAITING));
        loop {
            let connection = match listener.accept().await {
                Ok(connection) => connection,
                Err(_) => {
                    // Out of descriptors or memory: existing streams may end meanwhile.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Ok(place) = places.clone().try_acquire_owned() {
                let streams = self.clone();
                tokio::spawn(async move {
                    streams.admit(connection).await;
                    drop(place);
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the header, then hands the connection over or keeps it until its process comes or time is up.
    async fn admit(&self, mut connection: UnixStream) {
        let mut header = [0; 8];
        if !matches!(timeout(PATIENCE, connection.read_exact(&mut header)).await, Ok(Ok(_))) {
            return;
        }
        let id = u64::from_le_bytes(header);
        let taken = {
            let mut table = self.lock();
            if let Some(waiter) = table.wanted.remove(&id) {
                // A waiter that has gone drops the connection, which closes it.
                drop(waiter.send(connection));
                return;
            }
            if id == 0 || table.arrived.contains_key(&id) {
                return;
            }
            let (keeper, taken) = oneshot::channel();
            table.arrived.insert(id, (connection, keeper));
            taken
        };
        if timeout(PATIENCE, taken).await.is_err() {
            self.lock().arrived.remove(&id);
        }
    }

    /// The connection with this id, waited for if need be.
    pub async fn take(&self, id: u64) -> Result<UnixStream, StreamError> {
        let arrival = {
            let mut table = self.lock();
            if let Some((connection, _)) = table.arrived.remove(&id) {
                return Ok(connection);
            }
            if table.wanted.contains_key(&id) {
                return Err(StreamError::Duplicate { id });
            }
            let (sender, receiver) = oneshot::channel();
            table.wanted.insert(id, sender);
            receiver
        };
        // Also when the caller gives up first.
        let _no_longer_wanted = Wanted { streams: self, id };
        match timeout(PATIENCE, arrival).await {
            Ok(Ok(connection)) => Ok(connection),
            _ => Err(StreamError::Late { id }),
        }
    }
}

/// Takes a waiter out of the table.
struct Wanted<'a> {
    streams: &'a Streams,
    id: u64,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.streams.lock().wanted.remove(&self.id);
    }
}

#[cfg(test)]
#[path = "streams_test.rs"]
mod tests;
