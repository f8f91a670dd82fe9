//! One connection: which halves are finished on which side, and what waits for whom.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};

use super::backlog::Backlog;
use super::credit::Credit;
use super::handle::{ConnectOrder, Done};
use super::packet::{HOST_CID, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};
use super::stream;
use crate::virtio::buffers::Buffers;

/// Where a connection is in its life.
///
/// `Connecting -> Open -> Closing` towards the guest; `Open -> Draining` when the guest is finished and the host's stream has not
/// taken everything yet. From every phase the connection may simply be forgotten.
pub enum Phase {
    /// The request is on its way; the worker keeps the deadline.
    Connecting {
        /// Who wants to know.
        done: Done,
    },
    /// Data flows.
    Open,
    /// The guest has forgotten the connection, the stream still gets what the guest sent before.
    Draining,
    /// The stream is closed and the guest was told; the worker keeps the deadline for its confirmation.
    Closing,
}

/// One connection between a port of the guest and a stream of the host.
pub struct Connection {
    /// Port on the host's side, unique among the connections that the guest knows.
    pub local_port: u32,
    /// Port in the guest.
    pub peer_port: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Flow control.
    pub credit: Credit,
    /// What the stream has not taken yet.
    pub backlog: Backlog,
    /// SHUTDOWN_* bits that the guest has sent: what the guest is finished with.
    pub guest_finished: u32,
    /// SHUTDOWN_* bits that the host's stream is finished with: SEND when it ended, RECEIVE when it takes no more.
    pub host_finished: u32,
    /// SHUTDOWN_* bits that the guest was told.
    pub host_finished_told: u32,
    /// The other end of the stream is closed entirely.
    pub hung_up: bool,
    /// The stream has, or may have, something to read: data or its end.
    pub unread: bool,
    /// It is in the worker's queue of streams to read from.
    pub in_read_queue: bool,
    /// The guest has to be told its credit.
    pub owes_credit: bool,
    /// It is in the worker's queue of connections that owe packets.
    pub in_owed_queue: bool,
    owes_request: bool,
    stream: Option<OwnedFd>,
    watched: Option<EpollFlags>,
}

impl Connection {
    /// A connection about to be asked for. `buffer`: what the guest may have on the way, in bytes.
    pub fn new(local_port: u32, buffer: u32, order: ConnectOrder) -> Connection {
        let ConnectOrder {
            port: peer_port,
            stream,
            done,
        } = order;
        Connection {
            local_port,
            peer_port,
            phase: Phase::Connecting { done },
            credit: Credit::new(buffer),
            backlog: Backlog::default(),
            guest_finished: 0,
            host_finished: 0,
            host_finished_told: 0,
            hung_up: false,
            unread: false,
            in_read_queue: false,
            owes_credit: false,
            in_owed_queue: false,
            owes_request: true,
            stream: Some(stream),
            watched: None,
        }
    }

    /// The host's end, while it is open.
    pub fn stream(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Takes the stream out, to close it.
    pub fn take_stream(&mut self) -> Option<OwnedFd> {
        self.stream.take()
    }

    /// What epoll was last asked to report; `None` when the stream is not registered.
    pub fn watched(&mut self) -> &mut Option<EpollFlags> {
        &mut self.watched
    }

    /// What epoll should report. Events that cannot be acted upon now are left out, so that a level-triggered wait never spins;
    /// a hang-up is reported whatever is asked for, so after it nothing is.
    /// With `starved`, the guest has no receive buffers.
    pub fn wanted_events(&self, starved: bool) -> Option<EpollFlags> {
        if self.hung_up || self.stream.is_none() {
            return None;
        }
        match self.phase {
            Phase::Connecting { .. } | Phase::Closing => None,
            Phase::Open | Phase::Draining => {
                let mut wanted = EpollFlags::empty();
                let about_to_be_read = self.in_read_queue && !starved;
                if self.may_read_stream() && (!self.unread || about_to_be_read) {
                    wanted |= EpollFlags::EPOLLIN;
                }
                if !self.backlog.is_empty() {
                    wanted |= EpollFlags::EPOLLOUT;
                }
                Some(wanted)
            }
        }
    }

    /// Whether data of the stream has somewhere to go: the guest takes more and has credit for it.
    pub fn may_read_stream(&self) -> bool {
        matches!(self.phase, Phase::Open)
            && self.host_finished & SHUTDOWN_SEND == 0
            && self.guest_finished & SHUTDOWN_RECEIVE == 0
            && self.credit.available() > 0
    }

    /// The guest is finished with more directions.
    pub fn guest_finishes(&mut self, bits: u32) {
        let news = bits & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND) & !self.guest_finished;
        self.guest_finished |= news;
        if news & SHUTDOWN_RECEIVE != 0 {
            self.shut(Shutdown::Read);
        }
        self.end_stream_when_drained();
    }

    /// Ends the stream's input once it has everything that the guest sent. Called after each progress of the backlog.
    pub fn end_stream_when_drained(&mut self) {
        if self.guest_finished & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
            self.shut(Shutdown::Write);
        }
    }

    /// The host's stream takes no more: what waits for it is lost, as with a closed pipe.
    pub fn host_takes_no_more(&mut self) {
        self.host_finished |= SHUTDOWN_RECEIVE;
        self.backlog.clear();
    }

    /// Neither direction can carry anything any more.
    pub fn is_finished(&self) -> bool {
        let to_guest = self.host_finished & SHUTDOWN_SEND != 0 || self.guest_finished & SHUTDOWN_RECEIVE != 0;
        let to_host = self.host_finished & SHUTDOWN_RECEIVE != 0
            || (self.guest_finished & SHUTDOWN_SEND != 0 && self.backlog.is_empty());
        to_guest && to_host
    }

    /// A packet without payload is due.
    pub fn owes_packet(&self) -> bool {
        self.owed_op().is_some()
    }

    /// The most urgent packet without payload that is due.
    fn owed_op(&self) -> Option<Op> {
        match self.phase {
            Phase::Connecting { .. } if self.owes_request => Some(Op::Request),
            Phase::Open | Phase::Closing if self.host_finished & !self.host_finished_told != 0 => Some(Op::Shutdown),
            Phase::Open if self.owes_credit => Some(Op::CreditUpdate),
            _ => None,
        }
    }

    /// Takes the most urgent packet without payload that is due.
    pub fn take_owed(&mut self, guest_cid: u64) -> Option<Header> {
        let op = self.owed_op()?;
        match op {
            Op::Request => self.owes_request = false,
            Op::Shutdown => self.host_finished_told = self.host_finished,
            _ => {}
        }
        let mut header = self.header(guest_cid, op);
        if op == Op::Shutdown {
            header.flags = self.host_finished.into();
        }
        self.told_credit();
        Some(header)
    }

    /// A packet to the guest, which tells it its credit as every packet does; see [`Connection::told_credit`].
    pub fn header(&self, guest_cid: u64, op: Op) -> Header {
        let (buf_alloc, fwd_cnt) = self.credit.granted();
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: guest_cid.into(),
            src_port: self.local_port.into(),
            dst_port: self.peer_port.into(),
            len: 0.into(),
            kind: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: 0.into(),
            buf_alloc: buf_alloc.into(),
            fwd_cnt: fwd_cnt.into(),
        }
    }

    /// A packet with the present credit went out.
    pub fn told_credit(&mut self) {
        self.credit.announced();
        self.owes_credit = false;
    }

    /// Payload of the guest goes to the stream at once, and what that does not take waits.
    pub fn send_to_stream(&mut self, payload: &Buffers<'_>) {
        let total = payload.len();
        if self.host_finished & SHUTDOWN_RECEIVE != 0 {
            self.took(total);
            return;
        }
        let sent = match self.stream() {
            Some(stream) if self.backlog.is_empty() && total > 0 => match stream::send(stream, payload.slices()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.host_takes_no_more();
                    total
                }
            },
            _ => 0,
        };
        self.took(sent);
        if sent < total {
            self.backlog.push(&payload.part(sent, total - sent));
        }
    }

    /// What waits goes to the stream, as far as that takes it.
    pub fn flush(&mut self) {
        let Some(stream) = self.stream.as_ref() else { return };
        match self.backlog.flush(stream.as_fd()) {
            Ok(count) => self.took(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.host_takes_no_more(),
        }
        self.end_stream_when_drained();
    }

    /// The stream took bytes, which the guest hears of sooner or later.
    fn took(&mut self, count: usize) {
        // At most the window's size.
        self.owes_credit |= self.credit.take(count as u32);
    }

    fn shut(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            // Fails only when the other end is gone, which is reported as a hang-up.
            let _ = shutdown(stream.as_raw_fd(), how);
        }
    }
}
