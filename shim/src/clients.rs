//! The connections of the shim's clients, counted while they are open.
//!
//! ttrpc's server can close its connections but not say whether any is left. A client that reads an answer and the connection's end
//! in one go may take the call for broken (Go's ttrpc client picks either), so the shim lets its clients close first.

use std::io::{IoSlice, Result};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use ttrpc::r#async::transport::Listener;

/// Knows how long the accepted connections last.
pub struct Clients(watch::Sender<()>);

/// Accepts on an inherited socket, for ttrpc's server.
pub fn accept(socket: UnixListener) -> Result<(Listener, Clients)> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixListener::from_std(socket)?;
    let open = watch::Sender::new(());
    let clients = Clients(open.clone());
    let connections = stream::unfold((socket, open), |(socket, open)| async move {
        let accepted = socket.accept().await.map(|(stream, _)| Connection {
            stream,
            _open: open.subscribe(),
        });
        Some((accepted, (socket, open)))
    });
    Ok((Listener::new(connections), clients))
}

impl Clients {
    /// Answers when no connection is open.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

struct Connection {
    stream: UnixStream,
    _open: watch::Receiver<()>,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "clients_test.rs"]
mod clients_test;
