//! What a hostile or a resetting guest may do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::ConnectError;
use super::guest_test::{Guest, Link};
use super::packet::{HEADER_SIZE, Op};
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::{PATIENCE, Piece, wait_for};

const EVENT_IDX: u64 = 1 << 29;

fn expect_closed(link: &mut Link) {
    let mut rest = Vec::new();
    link.host.read_to_end(&mut rest).unwrap();
}

/// The device still works for an honest user.
fn expect_service(guest: &mut Guest) {
    let mut link = guest.connect(7);
    guest.send_data(&link, b"still here");
    let mut bytes = [0; 10];
    link.host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
}

#[test]
fn a_length_that_the_buffers_do_not_have_resets_the_connection() {
    for length in [11, 65537, u32::MAX] {
        let mut guest = Guest::start(8);
        let mut link = guest.connect(1024);
        guest.send_raw(Guest::header(&link, Op::Data, length).as_bytes(), b"ten bytes!");
        guest.expect(Op::Reset);
        expect_closed(&mut link);
        expect_service(&mut guest);
    }
}

#[test]
fn unknown_operations_and_operations_out_of_order_reset_the_connection() {
    for op in [0, 1, 2, 8, 0xffff] {
        let mut guest = Guest::start(8);
        let mut link = guest.connect(1024);
        let mut header = Guest::header(&link, Op::Data, 0);
        header.op = op.into();
        guest.send_raw(header.as_bytes(), &[]);
        guest.expect(Op::Reset);
        expect_closed(&mut link);
        expect_service(&mut guest);
    }
}

#[test]
fn data_before_the_response_fails_the_attempt() {
    let mut guest = Guest::start(8);
    let (host, outcomes) = guest.order(1024);
    let request = guest.expect(Op::Request);
    let link = Link {
        host,
        host_port: request.header.src_port.get(),
        guest_port: 1024,
    };
    guest.send_data(&link, b"early");
    assert_eq!(outcomes.recv_timeout(PATIENCE), Ok(Err(ConnectError::Refused(1024))));
    guest.expect(Op::Reset);
}

#[test]
fn packets_of_another_context_are_dropped_and_of_another_type_refused() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    let mut header = Guest::header(&link, Op::Data, 4);
    header.src_cid = 99.into();
    guest.send_raw(header.as_bytes(), b"fake");
    header = Guest::header(&link, Op::Data, 4);
    header.dst_cid = 99.into();
    guest.send_raw(header.as_bytes(), b"fake");
    guest.expect_silence();
    header = Guest::header(&link, Op::Data, 4);
    header.kind = 2.into();
    guest.send_raw(header.as_bytes(), b"fake");
    assert_eq!(guest.expect(Op::Reset).header.kind.get(), 2);
    guest.send_data(&link, b"real");
    let mut bytes = [0; 4];
    link.host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"real");
}

#[test]
fn unusable_transmit_buffers_are_given_back() {
    let mut guest = Guest::start(8);
    let chains: [&[Piece]; 4] = [
        &[Piece {
            at: 0x20_0000,
            len: HEADER_SIZE as u32 - 1,
            writable: false,
        }],
        &[Piece {
            at: 0x20_0000,
            len: 0,
            writable: false,
        }],
        &[Piece {
            at: 0x20_0000,
            len: 64,
            writable: true,
        }],
        &[Piece {
            at: 0xffff_ffff_ffff_0000,
            len: 64,
            writable: false,
        }],
    ];
    for chain in chains {
        guest.tx.add(chain);
        guest.tx.kick();
        guest.tx.wait_used("the chain");
    }
    expect_service(&mut guest);
}

#[test]
fn unusable_receive_buffers_are_given_back_empty() {
    let mut guest = Guest::start(0);
    let chains: [&[Piece]; 4] = [
        &[Piece {
            at: 0x10_0000,
            len: HEADER_SIZE as u32,
            writable: true,
        }],
        &[Piece {
            at: 0x10_0000,
            len: 4096,
            writable: false,
        }],
        &[
            Piece {
                at: 0x10_0000,
                len: 2048,
                writable: false,
            },
            Piece {
                at: 0x10_0800,
                len: 2048,
                writable: true,
            },
        ],
        &[Piece {
            at: 0x100_0000 - 64,
            len: 4096,
            writable: true,
        }],
    ];
    for chain in chains {
        guest.rx.add(chain);
    }
    guest.rx.kick();
    let (_host, _outcomes) = guest.order(1024);
    for _ in 0..4 {
        assert_eq!(guest.rx.wait_used("the chain").1, 0);
    }
    guest.post();
    guest.rx.kick();
    guest.expect(Op::Request);
}

#[test]
fn a_header_split_over_descriptors_is_understood() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    let mut bytes = Guest::header(&link, Op::Data, 3).as_bytes().to_vec();
    bytes.extend_from_slice(b"abc");
    guest.memory.write_slice(&bytes, GuestAddress(0x30_0000)).unwrap();
    let pieces: Vec<Piece> = (0..bytes.len() as u64)
        .map(|i| Piece {
            at: 0x30_0000 + i,
            len: 1,
            writable: false,
        })
        .collect();
    guest.tx.add(&pieces);
    guest.tx.kick();
    guest.tx.wait_used("the packet");
    let mut received = [0; 3];
    link.host.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"abc");
}

#[test]
fn a_nonsensical_ring_index_retires_the_queue_only() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    guest.tx.set_available(40000);
    guest.tx.kick();
    guest.expect_rest();
    link.host.write_all(b"one way still works").unwrap();
    assert_eq!(guest.expect(Op::Data).payload, b"one way still works");
    guest.device.reset();
    guest.activate(8, 0);
    expect_service(&mut guest);
}

#[test]
fn resets_that_cannot_be_sent_stop_the_intake_until_they_can() {
    let mut guest = Guest::start(0);
    let (host, _peer) = UnixStream::pair().unwrap();
    let nowhere = Link {
        host,
        host_port: 1,
        guest_port: 2,
    };
    let mut taken = 0;
    // More packets than the bound, each of which asks for a reset, with no buffer to put it into.
    for _ in 0..400 {
        guest.queue_raw(Guest::header(&nowhere, Op::Request, 0).as_bytes(), &[]);
        guest.tx.kick();
        let mut turns = 0;
        while guest.tx.take_used().map(|_| taken += 1).is_none() && turns < 20 {
            std::thread::sleep(Duration::from_micros(200));
            turns += 1;
        }
        if taken == 256 && turns == 20 {
            break;
        }
    }
    assert_eq!(taken, 256);
    guest.expect_rest();
    for _ in 0..32 {
        guest.post();
    }
    guest.rx.kick();
    for _ in 0..=256 {
        guest.expect(Op::Reset);
    }
    guest.tx.wait_used("the packet that waited");
    expect_service(&mut guest);
}

#[test]
fn a_reset_while_data_is_in_flight_leaves_guest_memory_alone() {
    let mut guest = Guest::start(64);
    let link = guest.connect(1024);
    let mut host = link.host.try_clone().unwrap();
    let writer = std::thread::spawn(move || while host.write_all(&[7; 65536]).is_ok() {});
    for _ in 0..10 {
        guest.expect(Op::Data);
    }
    let (_waiting, outcomes) = guest.order(1025);
    guest.device.reset();
    let index = guest.rx.used_index();
    guest
        .memory
        .write_slice(&vec![0; 0x4_0000], GuestAddress(0x10_0000))
        .unwrap();
    writer.join().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.rx.used_index(), index);
    let mut bytes = vec![1; 0x4_0000];
    guest.memory.read_slice(&mut bytes, GuestAddress(0x10_0000)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // Whether the worker had seen the order or not.
    assert_eq!(outcomes.try_recv(), Ok(Err(ConnectError::DeviceReset(1025))));
    let (_late, outcomes) = guest.order(1026);
    assert_eq!(outcomes.try_recv(), Ok(Err(ConnectError::DeviceReset(1026))));
    guest.activate(64, 0);
    expect_service(&mut guest);
}

#[test]
fn resets_in_quick_succession_leave_no_thread_behind() {
    let mut guest = Guest::start(8);
    for _ in 0..50 {
        guest.device.reset();
        guest.device.reset();
        guest.activate(8, EVENT_IDX);
    }
    guest.rx.kick();
    expect_service(&mut guest);
}

#[test]
fn interrupts_come_only_when_the_event_index_is_passed() {
    let mut guest = Guest::start_with_features(32, EVENT_IDX);
    let mut link = guest.connect(1024);
    let before = guest.interrupt.count(0);
    // Far ahead: no interrupt for the next packets.
    guest.rx.set_used_event(guest.rx.used_index().wrapping_add(5));
    for _ in 0..5 {
        link.host.write_all(b"quiet").unwrap();
        guest.expect(Op::Data);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.interrupt.count(0), before);
    link.host.write_all(b"loud").unwrap();
    guest.expect(Op::Data);
    wait_for("the interrupt", || {
        (guest.interrupt.count(0) == before + 1).then_some(())
    });
}
