//! The device's one thread: waits for kicks, orders and streams, and keeps every connection moving. Nothing in it waits elsewhere.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connection::{Connection, Phase};
use super::handle::{ConnectError, Mailbox};
use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::rx::RxQueue;
use super::table::{ConnectionId, Deadlines, Table};
use super::{CLOSE_TIMEOUT, CONNECT_TIMEOUT};
use crate::virtio::device::GuestMemory;
use crate::virtio::ring::Ring;

const TOKEN_STOP: u64 = 0;
const TOKEN_BELL: u64 = 1;
const TOKEN_RX: u64 = 2;
const TOKEN_TX: u64 = 3;
const FIRST_CONNECTION: ConnectionId = 16;

/// Events taken from one wait.
const EVENTS: usize = 64;

/// What the worker's thread runs.
pub struct Worker<'m> {
    pub(super) memory: &'m GuestMemory,
    pub(super) guest_cid: u64,
    pub(super) rx: RxQueue<'m>,
    pub(super) tx: Ring,
    /// The transmit queue may hold packets that no kick will announce.
    pub(super) tx_pending: bool,
    pub(super) table: Table,
    /// Resets that answer packets outside of any connection, or that end one.
    pub(super) resets: VecDeque<Header>,
    /// Connections that owe packets without payload.
    pub(super) owing: VecDeque<ConnectionId>,
    /// Connections whose stream should be read.
    pub(super) readable: VecDeque<ConnectionId>,
    connect_deadlines: Deadlines,
    close_deadlines: Deadlines,
    epoll: Epoll,
    mailbox: Arc<Mailbox>,
}

impl<'m> Worker<'m> {
    /// Ready to run; `stop` ends it when it becomes readable.
    pub fn new(
        memory: &'m GuestMemory,
        guest_cid: u64,
        rx: Ring,
        tx: Ring,
        mailbox: Arc<Mailbox>,
        stop: BorrowedFd<'_>,
    ) -> nix::Result<Worker<'m>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (fd, token) in [
            (stop, TOKEN_STOP),
            (mailbox.bell(), TOKEN_BELL),
            (rx.kick(), TOKEN_RX),
            (tx.kick(), TOKEN_TX),
        ] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(Worker {
            memory,
            guest_cid,
            rx: RxQueue::new(rx, memory),
            tx,
            tx_pending: true,
            table: Table::new(FIRST_CONNECTION),
            resets: VecDeque::new(),
            owing: VecDeque::new(),
            readable: VecDeque::new(),
            connect_deadlines: Deadlines::default(),
            close_deadlines: Deadlines::default(),
            epoll,
            mailbox,
        })
    }

    /// Serves until told to stop. Every stream is closed on return, and every attempt to connect has failed.
    pub fn run(mut self) {
        self.take_orders();
        loop {
            #[cfg(test)]
            self.mailbox.turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            self.receive_packets();
            self.send_packets();
            if self.rx.is_starved() {
                self.stop_watching_readable();
            }
            self.tx.notify(self.memory);
            self.rx.notify();
            match self.wait() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "the vsock worker cannot wait for events; vsock is dead");
                    break;
                }
            }
            self.expire(Instant::now());
        }
        for connection in self.table.drain() {
            if let Phase::Connecting { done } = connection.phase {
                done(Err(ConnectError::DeviceReset(connection.peer_port)));
            }
        }
    }

    /// Waits for events and acts on them. False: stop.
    fn wait(&mut self) -> nix::Result<bool> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, self.timeout()) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error),
        };
        for event in events.iter().take(count) {
            match event.data() {
                TOKEN_STOP => return Ok(false),
                TOKEN_BELL => self.take_orders(),
                TOKEN_RX => self.rx.kicked(),
                TOKEN_TX => {
                    self.tx.clear_kick();
                    self.tx_pending = true;
                }
                id => self.stream_event(id, event.events()),
            }
        }
        Ok(true)
    }

    /// No longer than until the next deadline, and not at all while something can be done at once.
    fn timeout(&self) -> EpollTimeout {
        let outgoing = !self.resets.is_empty() || !self.owing.is_empty() || !self.readable.is_empty();
        if (self.tx_pending && self.may_receive()) || (outgoing && !self.rx.is_starved()) {
            return EpollTimeout::ZERO;
        }
        match [self.connect_deadlines.next(), self.close_deadlines.next()]
            .into_iter()
            .flatten()
            .min()
        {
            None => EpollTimeout::NONE,
            Some(at) => {
                // Rounded up, so that the deadline has passed afterwards.
                let wait = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
            }
        }
    }

    fn take_orders(&mut self) {
        for order in self.mailbox.take() {
            if !self.table.has_room() {
                (order.done)(Err(ConnectError::TooMany));
                continue;
            }
            let deadline = Instant::now() + CONNECT_TIMEOUT;
            let id = self.table.insert(order);
            self.connect_deadlines.push(deadline, id);
            self.settle(id);
        }
    }

    /// Gives up on guests that did not answer.
    fn expire(&mut self, now: Instant) {
        while let Some(id) = self.connect_deadlines.pop(now) {
            if let Some(Connection {
                phase: Phase::Connecting { .. },
                ..
            }) = self.table.get(id)
            {
                self.abort(id, ConnectError::TimedOut);
            }
        }
        while let Some(id) = self.close_deadlines.pop(now) {
            if let Some(Connection {
                phase: Phase::Closing, ..
            }) = self.table.get(id)
            {
                self.abort(id, ConnectError::TimedOut);
            }
        }
    }

    /// Epoll has news of a stream.
    fn stream_event(&mut self, id: ConnectionId, events: EpollFlags) {
        let Some(connection) = self.table.get(id) else { return };
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            connection.hung_up = true;
            connection.unread = true;
            connection.host_takes_no_more();
        }
        if events.contains(EpollFlags::EPOLLIN) {
            connection.unread = true;
        }
        if events.contains(EpollFlags::EPOLLOUT) {
            self.flush(id);
        }
        self.settle(id);
    }

    /// Moves what waits for the stream into it.
    pub(super) fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        connection.flush();
    }

    /// Draws the conclusions after anything about a connection changed: ends what is finished, queues what has to be sent or
    /// read, and asks epoll for exactly the events that can be acted upon.
    pub(super) fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        if matches!(connection.phase, Phase::Draining) && (connection.backlog.is_empty() || connection.hung_up) {
            self.forget(id);
            return;
        }
        if matches!(connection.phase, Phase::Open) {
            if connection.guest_finished == SHUTDOWN_RECEIVE | SHUTDOWN_SEND {
                self.confirm_close(id);
                return;
            }
            if connection.is_finished() {
                self.begin_close(id);
            }
        }
        let Some(connection) = self.table.get(id) else { return };
        let reads = connection.unread && connection.may_read_stream() && !connection.in_read_queue;
        connection.in_read_queue |= reads;
        let owes = connection.owes_packet() && !connection.in_owed_queue;
        connection.in_owed_queue |= owes;
        if reads {
            self.readable.push_back(id);
        }
        if owes {
            self.owing.push_back(id);
        }
        self.watch(id);
    }

    /// The guest is finished with both directions: it gets the reset that it waits for, the stream what it sent before.
    fn confirm_close(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        let reset = connection.header(self.guest_cid, Op::Reset);
        self.resets.push_back(reset);
        self.let_go(id);
    }

    /// The guest knows the connection no longer; it stays only while the stream has not taken everything.
    pub(super) fn let_go(&mut self, id: ConnectionId) {
        self.table.release_port(id);
        let Some(connection) = self.table.get(id) else { return };
        if connection.backlog.is_empty() {
            self.forget(id);
        } else {
            connection.phase = Phase::Draining;
            self.watch(id);
        }
    }

    /// Both directions are finished: closes the stream, tells the guest, and gives it time to confirm.
    fn begin_close(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        connection.phase = Phase::Closing;
        connection.host_finished = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        connection.backlog.clear();
        self.close_deadlines.push(deadline, id);
        self.unwatch(id);
        if let Some(connection) = self.table.get(id) {
            drop(connection.take_stream());
        }
    }

    /// Ends a connection at once, telling the guest; an attempt to connect fails with `why`.
    pub(super) fn abort(&mut self, id: ConnectionId, why: fn(u32) -> ConnectError) {
        let Some(connection) = self.table.get(id) else { return };
        let reset = connection.header(self.guest_cid, Op::Reset);
        self.resets.push_back(reset);
        self.fail(id, why);
    }

    /// Ends a connection at once, without a word to the guest; an attempt to connect fails with `why`.
    pub(super) fn fail(&mut self, id: ConnectionId, why: fn(u32) -> ConnectError) {
        if let Some(connection) = self.forget(id)
            && let Phase::Connecting { done } = connection.phase
        {
            done(Err(why(connection.peer_port)));
        }
    }

    fn forget(&mut self, id: ConnectionId) -> Option<Connection> {
        self.unwatch(id);
        self.table.remove(id)
    }

    pub(super) fn watch(&mut self, id: ConnectionId) {
        let starved = self.rx.is_starved();
        let Some(connection) = self.table.get(id) else { return };
        let wanted = connection.wanted_events(starved);
        let watched = *connection.watched();
        let Some(stream) = connection.stream().filter(|_| wanted != watched) else {
            return;
        };
        let outcome = match (watched, wanted) {
            (None, Some(events)) => self.epoll.add(stream, EpollEvent::new(events, id)),
            (Some(_), Some(events)) => self.epoll.modify(stream, &mut EpollEvent::new(events, id)),
            (Some(_), None) => self.epoll.delete(stream),
            (None, None) => Ok(()),
        };
        match outcome {
            Ok(()) => *connection.watched() = wanted,
            Err(error) => {
                tracing::error!(%error, port = connection.peer_port, "cannot watch a vsock stream; it is closed");
                self.abort(id, ConnectError::Refused);
            }
        }
    }

    /// Before a stream is closed: a duplicate of it elsewhere would otherwise keep its events coming.
    fn unwatch(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        if connection.watched().take().is_some()
            && let Some(stream) = connection.stream()
        {
            // It is registered, so this cannot fail.
            let _ = self.epoll.delete(stream);
        }
    }
}
