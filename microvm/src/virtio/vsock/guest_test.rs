//! A guest's vsock driver for the tests of this folder: posts receive buffers, sends packets, sees what comes.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, IntoBytes};

use super::packet::{HEADER_SIZE, HOST_CID, Header, Op, TYPE_STREAM};
use super::{ConnectError, VsockDevice, VsockHandle};
use crate::virtio::device::{Activation, GuestMemory, VirtioDevice};
use crate::virtio::testing::{
    CountingInterrupt, FakeQueue, PATIENCE, Piece, counting_interrupt, guest_memory, wait_for,
};

pub const GUEST_CID: u64 = 3;
pub const RX_BUFFER: u32 = 4096;

const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x3000;
const RX_DATA: u64 = 0x10_0000;
const TX_DATA: u64 = 0x20_0000;
const TX_SLOT: u64 = 0x2_0000;
const QUEUE_SIZE: u16 = 64;

/// A guest with its device.
pub struct Guest {
    pub device: VsockDevice,
    pub handle: VsockHandle,
    pub memory: GuestMemory,
    pub rx: FakeQueue,
    pub tx: FakeQueue,
    pub interrupt: Arc<CountingInterrupt>,
    posted: HashMap<u16, u64>,
    sent: u16,
}

/// One side of an open connection, as the guest sees it, with the host's end.
pub struct Link {
    pub host: UnixStream,
    /// The port on the host's side.
    pub host_port: u32,
    /// The port in the guest.
    pub guest_port: u32,
}

/// A packet that the guest received.
pub struct Received {
    pub header: Header,
    pub payload: Vec<u8>,
}

impl Received {
    pub fn op(&self) -> Op {
        Op::from_wire(self.header.op.get()).unwrap()
    }
}

impl Guest {
    /// A guest whose driver is ready and has posted `buffers` receive buffers.
    pub fn start(buffers: u16) -> Guest {
        Guest::start_with_features(buffers, 0)
    }

    pub fn start_with_features(buffers: u16, features: u64) -> Guest {
        let mut guest = Guest::without_driver();
        guest.activate(buffers, features);
        guest
    }

    pub fn without_driver() -> Guest {
        let (device, handle) = VsockDevice::new(GUEST_CID).unwrap();
        let memory = guest_memory(0x100_0000);
        let (rx, _) = FakeQueue::new(&memory, RX_RING, QUEUE_SIZE);
        let (tx, _) = FakeQueue::new(&memory, TX_RING, QUEUE_SIZE);
        Guest {
            device,
            handle,
            memory,
            rx,
            tx,
            interrupt: counting_interrupt(),
            posted: HashMap::new(),
            sent: 0,
        }
    }

    /// What a driver does after a reset: fresh rings, DRIVER_OK.
    pub fn activate(&mut self, buffers: u16, features: u64) {
        self.memory.write_slice(&[0; 0x8000], GuestAddress(0)).unwrap();
        let (rx, rx_active) = FakeQueue::new(&self.memory, RX_RING, QUEUE_SIZE);
        let (tx, tx_active) = FakeQueue::new(&self.memory, TX_RING, QUEUE_SIZE);
        (self.rx, self.tx) = (rx, tx);
        self.posted.clear();
        for _ in 0..buffers {
            self.post();
        }
        let queues = vec![Some(rx_active), Some(tx_active), None];
        let interrupt = self.interrupt.clone();
        self.device
            .activate(Activation {
                memory: self.memory.clone(),
                features,
                queues,
                interrupt,
            })
            .unwrap();
    }

    /// Posts one more receive buffer, without a kick.
    pub fn post(&mut self) {
        let slot = (0..u64::from(QUEUE_SIZE))
            .find(|slot| !self.posted.values().any(|used| used == slot))
            .unwrap();
        let at = RX_DATA + slot * u64::from(RX_BUFFER);
        let head = self.rx.add(&[Piece {
            at,
            len: RX_BUFFER,
            writable: true,
        }]);
        self.posted.insert(head, slot);
    }

    /// The next packet if there is one; its buffer is posted again.
    pub fn try_receive(&mut self) -> Option<Received> {
        let received = self.try_receive_keeping_the_buffer()?;
        self.post();
        self.rx.kick();
        Some(received)
    }

    pub fn try_receive_keeping_the_buffer(&mut self) -> Option<Received> {
        let (head, length) = self.rx.take_used()?;
        let at = RX_DATA + self.posted.remove(&head).unwrap() * u64::from(RX_BUFFER);
        let mut bytes = vec![0; length as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let header = Header::read_from_bytes(&bytes[..HEADER_SIZE]).unwrap();
        assert_eq!(header.src_cid.get(), HOST_CID);
        assert_eq!(header.dst_cid.get(), GUEST_CID);
        assert_eq!(header.len.get() as usize, bytes.len() - HEADER_SIZE);
        Some(Received {
            header,
            payload: bytes.split_off(HEADER_SIZE),
        })
    }

    /// Waits for the next packet.
    pub fn receive(&mut self) -> Received {
        wait_for("a packet", || self.try_receive())
    }

    /// Waits for the next packet, which must be this one.
    pub fn expect(&mut self, op: Op) -> Received {
        let received = self.receive();
        assert_eq!(received.op(), op);
        received
    }

    /// Nothing comes for a while.
    pub fn expect_silence(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
        if let Some(received) = self.try_receive() {
            panic!("a packet came: {:?}", received.header);
        }
    }

    /// Sends raw readable pieces as one packet and waits until the device has taken it.
    pub fn send_raw(&mut self, header: &[u8], payload: &[u8]) {
        self.queue_raw(header, payload);
        self.tx.kick();
        self.tx.wait_used("the packet to be taken");
    }

    /// Makes a packet available without a kick.
    pub fn queue_raw(&mut self, header: &[u8], payload: &[u8]) {
        let at = TX_DATA + u64::from(self.sent % 32) * TX_SLOT;
        self.sent += 1;
        self.memory.write_slice(header, GuestAddress(at)).unwrap();
        self.memory.write_slice(payload, GuestAddress(at + 64)).unwrap();
        let mut pieces = vec![Piece {
            at,
            len: header.len() as u32,
            writable: false,
        }];
        // Real drivers split payload over descriptors, so this one does.
        let half = payload.len() / 2;
        for (from, to) in [(0, half), (half, payload.len())] {
            if from < to {
                pieces.push(Piece {
                    at: at + 64 + from as u64,
                    len: (to - from) as u32,
                    writable: false,
                });
            }
        }
        self.tx.add(&pieces);
    }

    /// A packet of `link`.
    pub fn header(link: &Link, op: Op, length: u32) -> Header {
        Header {
            src_cid: GUEST_CID.into(),
            dst_cid: HOST_CID.into(),
            src_port: link.guest_port.into(),
            dst_port: link.host_port.into(),
            len: length.into(),
            kind: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: 0.into(),
            buf_alloc: (256 * 1024).into(),
            fwd_cnt: 0.into(),
        }
    }

    pub fn send(&mut self, link: &Link, op: Op) {
        self.send_raw(Guest::header(link, op, 0).as_bytes(), &[]);
    }

    pub fn send_data(&mut self, link: &Link, payload: &[u8]) {
        self.send_raw(Guest::header(link, Op::Data, payload.len() as u32).as_bytes(), payload);
    }

    pub fn send_shutdown(&mut self, link: &Link, flags: u32) {
        let mut header = Guest::header(link, Op::Shutdown, 0);
        header.flags = flags.into();
        self.send_raw(header.as_bytes(), &[]);
    }

    /// Tells the host that `taken` bytes were read of what it sent, in a buffer of `buffer` bytes.
    pub fn send_credit(&mut self, link: &Link, buffer: u32, taken: u32) {
        let mut header = Guest::header(link, Op::CreditUpdate, 0);
        header.buf_alloc = buffer.into();
        header.fwd_cnt = taken.into();
        self.send_raw(header.as_bytes(), &[]);
    }

    /// Asks the device for a connection, without answering for the guest.
    pub fn order(&self, port: u32) -> (UnixStream, Receiver<Result<(), ConnectError>>) {
        let (host, theirs) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        host.set_write_timeout(Some(PATIENCE)).unwrap();
        let (outcome, outcomes) = channel();
        self.handle.connect(
            port,
            theirs.into(),
            Box::new(move |result| outcome.send(result).unwrap()),
        );
        (host, outcomes)
    }

    /// An open connection to `port`.
    pub fn connect(&mut self, port: u32) -> Link {
        let (host, outcomes) = self.order(port);
        let request = self.expect(Op::Request);
        assert_eq!(request.header.dst_port.get(), port);
        let link = Link {
            host,
            host_port: request.header.src_port.get(),
            guest_port: port,
        };
        self.send(&link, Op::Response);
        assert_eq!(outcomes.recv_timeout(PATIENCE), Ok(Ok(())));
        link
    }

    /// The worker rests: it makes no turns while nothing happens.
    pub fn expect_rest(&self) {
        std::thread::sleep(Duration::from_millis(20));
        let before = self.handle.turns();
        std::thread::sleep(Duration::from_millis(100));
        let turns = self.handle.turns() - before;
        assert!(turns <= 2, "the worker made {turns} turns with nothing to do");
    }
}
