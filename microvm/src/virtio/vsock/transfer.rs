//! The two directions of the worker: packets from the guest, and packets to it.

use zerocopy::{FromZeros, IntoBytes};

use super::connection::Phase;
use super::handle::ConnectError;
use super::packet::{HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, Op, SHUTDOWN_SEND, TYPE_STREAM};
use super::rx::Delivery;
use super::table::ConnectionId;
use super::worker::Worker;
use crate::virtio::buffers::{Buffers, Direction};

/// Unsent resets at which no more packets are taken from the guest: each packet can cause one.
const MAX_RESETS: usize = 256;

/// Packets taken from the guest before something else gets its turn.
const PACKETS_A_TURN: usize = 64;

/// Most bytes that one stream may send to the guest in its turn.
const BYTES_A_TURN: usize = 256 * 1024;

impl<'m> Worker<'m> {
    /// Whether packets from the guest may be taken now.
    pub(super) fn may_receive(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Takes packets from the guest.
    pub(super) fn receive_packets(&mut self) {
        for _ in 0..PACKETS_A_TURN {
            if !self.tx_pending || !self.may_receive() {
                return;
            }
            let Some(chain) = self.tx.pop(self.memory) else {
                self.tx_pending = self.tx.ask_for_kick(self.memory);
                continue;
            };
            let head = chain.head_index();
            match Buffers::collect(self.memory, chain, Direction::Readable) {
                Ok(packet) => self.receive_packet(&packet),
                Err(error) => tracing::debug!(%error, "the guest sent a vsock packet in unusable buffers"),
            }
            self.tx.give_back(self.memory, head, 0);
        }
    }

    fn receive_packet(&mut self, packet: &Buffers<'m>) {
        let mut header = Header::new_zeroed();
        if packet.copy_to(header.as_mut_bytes()) < HEADER_SIZE {
            tracing::debug!(
                bytes = packet.len(),
                "the guest sent a vsock packet without a whole header"
            );
            return;
        }
        if header.src_cid.get() != self.guest_cid || header.dst_cid.get() != HOST_CID {
            return;
        }
        let op = Op::from_wire(header.op.get());
        let id = match header.kind.get() {
            TYPE_STREAM => self.table.find(header.dst_port.get(), header.src_port.get()),
            _ => None,
        };
        match (id, op) {
            (Some(id), Some(op)) => self.packet_of(id, op, &header, packet),
            (Some(id), None) => self.abort(id, ConnectError::Refused),
            (None, Some(Op::Reset)) => {}
            // Also what a guest gets that asks for a connection: it never can have one.
            (None, _) => self.resets.push_back(header.reset_in_reply()),
        }
    }

    /// A packet of a connection that exists.
    fn packet_of(&mut self, id: ConnectionId, op: Op, header: &Header, packet: &Buffers<'m>) {
        let Some(connection) = self.table.get(id) else { return };
        connection.credit.heard(header.buf_alloc.get(), header.fwd_cnt.get());
        match (&connection.phase, op) {
            (Phase::Connecting { .. }, Op::Response) => {
                if let Phase::Connecting { done } = std::mem::replace(&mut connection.phase, Phase::Open) {
                    done(Ok(()));
                }
            }
            (Phase::Connecting { .. }, Op::Reset) => {
                self.fail(id, ConnectError::Refused);
                return;
            }
            (Phase::Open, Op::Data) => {
                if !self.data(id, header, packet) {
                    self.abort(id, ConnectError::Refused);
                    return;
                }
            }
            (Phase::Open | Phase::Closing, Op::CreditUpdate) | (Phase::Closing, Op::Data | Op::CreditRequest) => {}
            (Phase::Open, Op::CreditRequest) => connection.owes_credit = true,
            (Phase::Open, Op::Shutdown) => connection.guest_finishes(header.flags.get()),
            (Phase::Open | Phase::Closing, Op::Reset) => {
                self.let_go(id);
                return;
            }
            (Phase::Closing, Op::Shutdown) => {
                // It closed at the same time; both know now.
                self.abort(id, ConnectError::Refused);
                return;
            }
            (Phase::Connecting { .. } | Phase::Open | Phase::Closing | Phase::Draining, _) => {
                self.abort(id, ConnectError::Refused);
                return;
            }
        }
        self.settle(id);
    }

    /// Payload from the guest. False when the packet breaks the rules.
    fn data(&mut self, id: ConnectionId, header: &Header, packet: &Buffers<'m>) -> bool {
        let Some(connection) = self.table.get(id) else {
            return true;
        };
        let length = header.len.get();
        if length as usize > MAX_PAYLOAD
            || packet.len() - HEADER_SIZE < length as usize
            || connection.guest_finished & SHUTDOWN_SEND != 0
            || !connection.credit.receive(length)
        {
            return false;
        }
        connection.send_to_stream(&packet.part(HEADER_SIZE, length as usize));
        true
    }

    /// Sends what the guest has buffers for: resets, then packets without payload, then data, one turn for each stream.
    pub(super) fn send_packets(&mut self) {
        while let Some(reset) = self.resets.front() {
            if !self.rx.send(reset) {
                return;
            }
            self.resets.pop_front();
        }
        while let Some(&id) = self.owing.front() {
            if !self.rx.has_buffer() {
                return;
            }
            self.owing.pop_front();
            let Some(connection) = self.table.get(id) else { continue };
            connection.in_owed_queue = false;
            if let Some(header) = connection.take_owed(self.guest_cid) {
                self.rx.send(&header);
            }
            self.settle(id);
        }
        for _ in 0..self.readable.len() {
            if !self.rx.has_buffer() {
                return;
            }
            let Some(id) = self.readable.pop_front() else { return };
            self.read_stream(id);
        }
    }

    /// Without receive buffers nothing can be read: no stream's news may wake the worker until there are some.
    pub(super) fn stop_watching_readable(&mut self) {
        for at in 0..self.readable.len() {
            if let Some(&id) = self.readable.get(at) {
                self.watch(id);
            }
        }
    }

    /// One turn of one stream.
    fn read_stream(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.get(id) else { return };
        connection.in_read_queue = false;
        if !connection.may_read_stream() {
            self.settle(id);
            return;
        }
        let limit = (connection.credit.available() as usize).min(BYTES_A_TURN);
        let header = connection.header(self.guest_cid, Op::Data);
        let Some(stream) = connection.stream() else { return };
        // Counts are at most BYTES_A_TURN.
        let delivery = self.rx.deliver(stream, limit, &header);
        match delivery {
            Delivery::Filled(count) | Delivery::Emptied(count) if count > 0 => {
                connection.credit.send(count as u32);
                connection.told_credit();
            }
            Delivery::Ended => connection.host_finished |= SHUTDOWN_SEND,
            _ => {}
        }
        if matches!(delivery, Delivery::Emptied(_)) {
            connection.unread = connection.hung_up;
        }
        self.settle(id);
    }
}
