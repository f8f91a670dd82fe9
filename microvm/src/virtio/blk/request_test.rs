use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::ring::Ring;
use crate::virtio::testing::{FakeQueue, Piece, counting_interrupt, guest_memory};

const BOUNDS: Bounds = Bounds {
    capacity: 1 << 20,
    read_only: false,
};
const HEADER: u64 = 0x8000;

fn readable(at: u64, len: u32) -> Piece {
    Piece {
        at,
        len,
        writable: false,
    }
}

fn room(at: u64, len: u32) -> Piece {
    Piece {
        at,
        len,
        writable: true,
    }
}

/// Parses one chain whose header says `kind` and `sector`.
fn with<T>(kind: u32, sector: u64, chain: &[Piece], bounds: Bounds, look: impl Fn(Option<Parsed<'_>>) -> T) -> T {
    let memory = guest_memory(1 << 20);
    memory
        .write_slice(
            Header {
                kind,
                reserved: 0,
                sector,
            }
            .as_bytes(),
            GuestAddress(HEADER),
        )
        .unwrap();
    let range = RawRange {
        sector: 8,
        sectors: 16,
        flags: MAY_UNMAP,
    };
    memory.write_slice(range.as_bytes(), GuestAddress(HEADER + 16)).unwrap();
    let (mut driver, active) = FakeQueue::new(&memory, 0, 64);
    let mut ring = Ring::new(active, 0, 0, counting_interrupt());
    driver.add(chain);
    look(parse(&memory, ring.pop(&memory).unwrap(), bounds))
}

fn status_of(parsed: Option<Parsed<'_>>) -> Status {
    parsed.unwrap().request.unwrap_err()
}

#[test]
fn a_read_has_room_and_a_status_byte() {
    let chain = [
        readable(HEADER, 16),
        room(0x1_0000, 4096),
        room(0x2_0000, 512),
        room(0x3_0000, 1),
    ];
    with(kind::READ, 3, &chain, BOUNDS, |parsed| {
        let parsed = parsed.unwrap();
        assert_eq!(parsed.status.len(), 1);
        let Ok(Request::Read { start, data }) = parsed.request else {
            panic!("{:?}", parsed.request)
        };
        assert_eq!((start, data.len()), (3 * 512, 4608));
    });
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    let chain = [readable(HEADER, 16 + 512), room(0x3_0000, 1)];
    with(kind::WRITE, 0, &chain, BOUNDS, |parsed| {
        assert!(matches!(parsed.unwrap().request, Ok(Request::Write { start: 0, data }) if data.len() == 512));
    });
    let chain = [readable(HEADER, 7), readable(HEADER + 7, 9), room(0x1_0000, 513)];
    with(kind::READ, 0, &chain, BOUNDS, |parsed| {
        assert!(matches!(parsed.unwrap().request, Ok(Request::Read { data, .. }) if data.len() == 512));
    });
}

#[test]
fn requests_outside_of_the_disk_fail_alone() {
    let chain = [readable(HEADER, 16), room(0x1_0000, 1024), room(0x3_0000, 1)];
    for sector in [2047, 2048, u64::MAX, u64::MAX / 512] {
        assert_eq!(with(kind::READ, sector, &chain, BOUNDS, status_of), Status::IoError);
    }
    let ragged = [readable(HEADER, 16), room(0x1_0000, 100), room(0x3_0000, 1)];
    assert_eq!(with(kind::READ, 0, &ragged, BOUNDS, status_of), Status::IoError);
    assert_eq!(with(99, 0, &chain, BOUNDS, status_of), Status::Unsupported);
    assert_eq!(
        with(
            kind::READ,
            0,
            &[readable(HEADER, 15), room(0x3_0000, 1)],
            BOUNDS,
            status_of
        ),
        Status::IoError
    );
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let bounds = Bounds {
        read_only: true,
        ..BOUNDS
    };
    let chain = [readable(HEADER, 16), readable(HEADER + 16, 16), room(0x3_0000, 1)];
    for kind in [kind::WRITE, kind::DISCARD, kind::WRITE_ZEROES] {
        assert_eq!(with(kind, 0, &chain, bounds, status_of), Status::IoError);
    }
}

#[test]
fn ranges_are_checked() {
    let chain = [readable(HEADER, 32), room(0x3_0000, 1)];
    with(kind::WRITE_ZEROES, 0, &chain, BOUNDS, |parsed| {
        let Ok(Request::WriteZeroes(ranges)) = parsed.unwrap().request else {
            panic!()
        };
        assert_eq!(
            ranges,
            [Range {
                start: 4096,
                length: 8192,
                may_unmap: true
            }]
        );
    });
    assert_eq!(
        with(kind::DISCARD, 0, &chain, BOUNDS, status_of),
        Status::Unsupported,
        "flag on a discard"
    );
    let ragged = [readable(HEADER, 31), room(0x3_0000, 1)];
    assert_eq!(with(kind::WRITE_ZEROES, 0, &ragged, BOUNDS, status_of), Status::IoError);
    let small = Bounds {
        capacity: 4096,
        read_only: false,
    };
    assert_eq!(with(kind::WRITE_ZEROES, 0, &chain, small, status_of), Status::IoError);
}

#[test]
fn a_chain_without_a_status_byte_cannot_be_answered() {
    for chain in [
        vec![readable(HEADER, 16)],
        vec![readable(HEADER, 16), room(0x3_0000, 0)],
        vec![readable(HEADER, 16), room(1 << 40, 1)],
        vec![room(0x3_0000, 1), readable(HEADER, 16)],
    ] {
        with(kind::READ, 0, &chain, BOUNDS, |parsed| assert!(parsed.is_none()));
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2000 {
        let pieces: Vec<Piece> = (0..random() % 6 + 1)
            .map(|_| {
                let at = if random() % 8 == 0 {
                    random()
                } else {
                    random() % (1 << 20)
                };
                let len = if random() % 8 == 0 {
                    random() as u32
                } else {
                    (random() % 1024) as u32
                };
                Piece {
                    at,
                    len,
                    writable: random() % 2 == 0,
                }
            })
            .collect();
        let kind = (random() % 16) as u32;
        let sector = if random() % 2 == 0 { random() } else { random() % 4096 };
        with(kind, sector, &pieces, BOUNDS, |parsed| {
            if let Some(parsed) = parsed {
                assert_eq!(parsed.status.len(), 1);
            }
        });
    }
}
