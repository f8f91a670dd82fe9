use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::credit::RECEIVE_BUFFER;
use super::guest_test::{Guest, Link, RX_BUFFER};
use super::packet::{HEADER_SIZE, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::{PATIENCE, wait_for};

const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Bytes that show a gap or a swap.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

fn read_exactly(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn expect_end(stream: &mut UnixStream) {
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn config_space_holds_the_context_id_and_zeroes_behind_it() {
    let (device, _) = VsockDevice::new(0x1234_5678_9abc).unwrap();
    let mut data = [0xff; 12];
    device.read_config(0, &mut data);
    assert_eq!(data, [0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
    let mut data = [0xff; 2];
    device.read_config(u64::MAX - 1, &mut data);
    assert_eq!(data, [0, 0]);
}

#[test]
fn data_flows_both_ways() {
    let mut guest = Guest::start(32);
    let mut link = guest.connect(1024);
    link.host.write_all(b"to the guest").unwrap();
    assert_eq!(guest.expect(Op::Data).payload, b"to the guest");
    guest.send_data(&link, b"to the host");
    assert_eq!(read_exactly(&mut link.host, 11), b"to the host");
}

#[test]
fn a_refused_connection_fails_and_closes_its_stream() {
    let mut guest = Guest::start(4);
    let (mut host, outcomes) = guest.order(9);
    let request = guest.expect(Op::Request);
    let link = Link {
        host: host.try_clone().unwrap(),
        host_port: request.header.src_port.get(),
        guest_port: 9,
    };
    guest.send(&link, Op::Reset);
    assert_eq!(outcomes.recv_timeout(PATIENCE), Ok(Err(ConnectError::Refused(9))));
    expect_end(&mut host);
}

#[test]
fn an_order_from_before_the_driver_is_ready_waits_for_it() {
    let mut guest = Guest::without_driver();
    let (_host, outcomes) = guest.order(1024);
    assert!(outcomes.recv_timeout(Duration::from_millis(50)).is_err());
    guest.activate(4, 0);
    assert_eq!(guest.expect(Op::Request).header.dst_port.get(), 1024);
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let mut guest = Guest::start(4);
    let (_host, outcomes) = guest.order(1024);
    guest.expect(Op::Request);
    let wait = CONNECT_TIMEOUT + PATIENCE;
    assert_eq!(outcomes.recv_timeout(wait), Ok(Err(ConnectError::TimedOut(1024))));
    guest.expect(Op::Reset);
}

#[test]
fn the_guest_cannot_open_a_connection() {
    let mut guest = Guest::start(4);
    let (host, _peer) = UnixStream::pair().unwrap();
    let link = Link {
        host,
        host_port: 1024,
        guest_port: 5000,
    };
    guest.send(&link, Op::Request);
    let reset = guest.expect(Op::Reset);
    assert_eq!((reset.header.src_port.get(), reset.header.dst_port.get()), (1024, 5000));
}

#[test]
fn megabytes_to_the_guest_arrive_in_order_within_its_credit() {
    let mut guest = Guest::start(32);
    let link = guest.connect(1024);
    let data = pattern(8 << 20);
    let mut host = link.host.try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || host.write_all(&sent).unwrap());
    let (mut received, mut told) = (Vec::new(), 0);
    while received.len() < data.len() {
        let packet = guest.expect(Op::Data);
        received.extend_from_slice(&packet.payload);
        assert!(received.len() - told <= 256 * 1024, "the credit was overrun");
        if received.len() - told >= 128 * 1024 {
            told = received.len();
            guest.send_credit(&link, 256 * 1024, told as u32);
        }
    }
    writer.join().unwrap();
    assert!(received == data);
}

#[test]
fn no_credit_stops_the_host_and_new_credit_lets_it_go_on() {
    let mut guest = Guest::start(32);
    let mut link = guest.connect(1024);
    guest.send_credit(&link, 100, 0);
    link.host.write_all(&pattern(150)).unwrap();
    assert_eq!(guest.expect(Op::Data).payload.len(), 100);
    guest.expect_silence();
    guest.expect_rest();
    guest.send_credit(&link, 100, 100);
    assert_eq!(guest.expect(Op::Data).payload.len(), 50);
}

#[test]
fn megabytes_to_a_slow_host_arrive_in_order() {
    let mut guest = Guest::start(32);
    let link = guest.connect(1024);
    let data = pattern(4 << 20);
    let mut host = link.host.try_clone().unwrap();
    let length = data.len();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        read_exactly(&mut host, length)
    });
    let (mut sent, mut taken) = (0, 0);
    while sent < length {
        while sent + 65536 - taken > RECEIVE_BUFFER as usize {
            taken = guest.expect(Op::CreditUpdate).header.fwd_cnt.get() as usize;
        }
        guest.send_data(&link, &data[sent..sent + 65536]);
        sent += 65536;
    }
    assert!(reader.join().unwrap() == data);
}

#[test]
fn overrunning_the_credit_resets_the_connection() {
    let mut guest = Guest::start(32);
    let mut link = guest.connect(1024);
    // The host reads nothing; its socket takes some, the window bounds the rest.
    let mut packets = 0;
    let received = loop {
        guest.send_data(&link, &pattern(65536));
        packets += 1;
        if let Some(received) = guest.try_receive()
            && received.op() == Op::Reset
        {
            break received;
        }
        assert!(packets < 64, "megabytes were taken for a host that reads nothing");
    };
    assert_eq!(received.header.dst_port.get(), 1024);
    let mut rest = Vec::new();
    link.host.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::start(4);
    let link = guest.connect(1024);
    guest.send(&link, Op::CreditRequest);
    assert_eq!(guest.expect(Op::CreditUpdate).header.buf_alloc.get(), RECEIVE_BUFFER);
}

#[test]
fn the_end_of_the_stream_is_told_after_its_data_and_the_guest_may_go_on_sending() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    link.host.write_all(b"last words").unwrap();
    link.host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Op::Data).payload, b"last words");
    assert_eq!(guest.expect(Op::Shutdown).header.flags.get(), SHUTDOWN_SEND);
    guest.expect_rest();
    guest.send_data(&link, b"an answer");
    assert_eq!(read_exactly(&mut link.host, 9), b"an answer");
    guest.send_shutdown(&link, SHUTDOWN_SEND);
    expect_end(&mut link.host);
    assert_eq!(guest.expect(Op::Shutdown).header.flags.get(), BOTH);
    guest.send(&link, Op::Reset);
    guest.expect_silence();
}

#[test]
fn the_guests_end_reaches_the_host_after_all_data_and_the_host_may_go_on_sending() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    let data = pattern(RECEIVE_BUFFER as usize);
    for chunk in data.chunks(65536) {
        guest.send_data(&link, chunk);
    }
    guest.send_shutdown(&link, SHUTDOWN_SEND);
    guest.expect_rest();
    assert!(read_exactly(&mut link.host, data.len()) == data);
    expect_end(&mut link.host);
    link.host.write_all(b"reply").unwrap();
    let reply = wait_for("data", || guest.try_receive().filter(|packet| packet.op() == Op::Data));
    assert_eq!(reply.payload, b"reply");
}

#[test]
fn a_guest_that_closes_gets_its_reset_and_the_host_all_data() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    let data = pattern(RECEIVE_BUFFER as usize);
    for chunk in data.chunks(65536) {
        guest.send_data(&link, chunk);
    }
    guest.send_shutdown(&link, BOTH);
    wait_for("a reset", || {
        guest.try_receive().filter(|packet| packet.op() == Op::Reset)
    });
    assert!(read_exactly(&mut link.host, data.len()) == data);
    expect_end(&mut link.host);
}

#[test]
fn a_guest_that_closes_while_the_host_writes_ends_the_writer() {
    let mut guest = Guest::start(8);
    let mut link = guest.connect(1024);
    let mut host = link.host.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let data = pattern(65536);
        loop {
            if let Err(error) = host.write_all(&data) {
                return error.kind();
            }
        }
    });
    guest.expect(Op::Data);
    guest.send_shutdown(&link, BOTH);
    // The latter once, to whoever asks first, as bytes were still unread (unix(7)).
    let end = writer.join().unwrap();
    assert!(
        matches!(end, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
        "{end}"
    );
    wait_for("a reset", || {
        guest.try_receive().filter(|packet| packet.op() == Op::Reset)
    });
    let end = link.host.read(&mut [0; 16]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    guest.expect_rest();
}

#[test]
fn a_host_that_closes_while_the_guest_sends_is_told_to_it() {
    let mut guest = Guest::start(8);
    let link = guest.connect(1024);
    guest.send_data(&link, b"never read");
    drop(link.host.try_clone().unwrap());
    let (host_port, guest_port) = (link.host_port, link.guest_port);
    drop(link);
    while guest.expect(Op::Shutdown).header.flags.get() != BOTH {}
    let (host, _peer) = UnixStream::pair().unwrap();
    let link = Link {
        host,
        host_port,
        guest_port,
    };
    guest.send_data(&link, b"crossed on the way");
    guest.expect_silence();
    guest.expect_rest();
    guest.send(&link, Op::Reset);
    guest.send(&link, Op::CreditRequest);
    guest.expect(Op::Reset);
}

#[test]
fn a_close_that_the_guest_does_not_confirm_is_forgotten() {
    let mut guest = Guest::start(8);
    let link = guest.connect(1024);
    drop(link);
    while guest.expect(Op::Shutdown).header.flags.get() != BOTH {}
    let reset = wait_for("the reset", || guest.try_receive());
    assert_eq!(reset.op(), Op::Reset);
}

#[test]
fn a_half_closed_idle_peer_does_not_keep_the_worker_busy() {
    let mut guest = Guest::start(8);
    let link = guest.connect(1024);
    link.host.shutdown(Shutdown::Write).unwrap();
    guest.expect(Op::Shutdown);
    guest.expect_rest();
    let other = guest.connect(1025);
    other.host.shutdown(Shutdown::Read).unwrap();
    guest.expect_rest();
}

#[test]
fn without_receive_buffers_nothing_spins_and_nothing_is_lost() {
    let mut guest = Guest::start(2);
    let mut link = guest.connect(1024);
    // Both buffers are used up and not posted again.
    let room = (RX_BUFFER as usize - HEADER_SIZE) * 2;
    let data = pattern(room + 100);
    link.host.write_all(&data).unwrap();
    let mut received = Vec::new();
    for _ in 0..2 {
        received.extend(wait_for("data", || guest.try_receive_keeping_the_buffer()).payload);
    }
    link.host.shutdown(Shutdown::Write).unwrap();
    guest.expect_rest();
    guest.post();
    guest.post();
    guest.rx.kick();
    received.extend(guest.receive().payload);
    assert!(received == data);
    guest.expect(Op::Shutdown);
}

#[test]
fn a_closed_host_is_noticed_although_the_guest_gives_no_credit() {
    let mut guest = Guest::start(8);
    let link = guest.connect(1024);
    guest.send_credit(&link, 0, 0);
    let Link {
        mut host,
        host_port,
        guest_port,
    } = link;
    host.write_all(b"waits").unwrap();
    drop(host);
    assert_eq!(guest.expect(Op::Shutdown).header.flags.get(), SHUTDOWN_RECEIVE);
    guest.expect_rest();
    let (host, _peer) = UnixStream::pair().unwrap();
    guest.send_credit(
        &Link {
            host,
            host_port,
            guest_port,
        },
        1000,
        0,
    );
    assert_eq!(guest.expect(Op::Data).payload, b"waits");
    assert_eq!(guest.expect(Op::Shutdown).header.flags.get(), BOTH);
}

#[test]
fn many_connections_do_not_mix() {
    let mut guest = Guest::start(64);
    let mut links: Vec<Link> = (0..100).map(|_| guest.connect(1024)).collect();
    let mut ports: Vec<u32> = links.iter().map(|link| link.host_port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), links.len());
    for (i, link) in links.iter_mut().enumerate() {
        guest.send_data(link, &[i as u8; 1000]);
    }
    for (i, link) in links.iter_mut().enumerate() {
        assert_eq!(read_exactly(&mut link.host, 1000), [i as u8; 1000]);
    }
}
