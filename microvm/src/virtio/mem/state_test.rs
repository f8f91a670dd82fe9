use vm_memory::GuestAddress;

use super::*;

const CHUNK: u64 = 4 * BLOCK;
const START: u64 = 64 * CHUNK;

/// Room for three chunks of four blocks.
fn state(requested_blocks: u64) -> State {
    let mut state = State::new(Hotplug {
        start: GuestAddress(START),
        length: 3 * CHUNK,
        chunk: CHUNK,
    });
    state.request(requested_blocks * BLOCK);
    state
}

fn span(block: u64, count: u16) -> Span {
    Span {
        address: START + block * BLOCK,
        count,
    }
}

fn plug(state: &mut State, block: u64, count: u16) -> Result<(), Response> {
    let blocks = state.may_plug(span(block, count))?;
    state.set(blocks, true);
    Ok(())
}

fn unplug(state: &mut State, block: u64, count: u16) -> Result<(), Response> {
    let blocks = state.may_unplug(span(block, count))?;
    state.set(blocks, false);
    Ok(())
}

#[test]
fn the_guest_has_no_more_than_is_requested() {
    let mut state = state(3);
    plug(&mut state, 0, 2).unwrap();
    assert_eq!(plug(&mut state, 2, 2), Err(Response::Nack));
    plug(&mut state, 3, 1).unwrap();
    assert_eq!(plug(&mut state, 2, 1), Err(Response::Nack));
    assert_eq!(state.plugged(), 3 * BLOCK);
    unplug(&mut state, 0, 1).unwrap();
    plug(&mut state, 2, 1).unwrap();
}

#[test]
fn less_is_requested_than_the_guest_has() {
    let mut state = state(8);
    plug(&mut state, 0, 8).unwrap();
    assert!(state.request(2 * BLOCK));
    assert_eq!(state.plugged(), 8 * BLOCK);
    unplug(&mut state, 1, 6).unwrap();
    assert_eq!(plug(&mut state, 1, 1), Err(Response::Nack));
    // The usable part does not shrink.
    assert_eq!(state.look(span(7, 1)), Ok(BlockState::Plugged));
    assert_eq!(state.usable_chunks(), 2);
}

#[test]
fn blocks_change_from_the_other_state_only() {
    let mut state = state(4);
    plug(&mut state, 1, 2).unwrap();
    for (block, count) in [(1, 1), (0, 2), (2, 2), (0, 4)] {
        assert_eq!(plug(&mut state, block, count), Err(Response::Error), "{block}+{count}");
    }
    for (block, count) in [(0, 1), (3, 1), (0, 2), (2, 2), (0, 4)] {
        assert_eq!(
            unplug(&mut state, block, count),
            Err(Response::Error),
            "{block}+{count}"
        );
    }
    assert_eq!(state.plugged(), 2 * BLOCK);
}

#[test]
fn blocks_lie_in_the_usable_part() {
    let state = state(5);
    let outside = [
        span(8, 1),
        span(7, 2),
        span(11, 1),
        span(0, 0),
        span(0, u16::MAX),
        Span { address: 0, count: 1 },
        Span {
            address: START - BLOCK,
            count: 1,
        },
        Span {
            address: START - BLOCK,
            count: 2,
        },
        Span {
            address: START + 1,
            count: 1,
        },
        Span {
            address: START + BLOCK / 2,
            count: 1,
        },
        Span {
            address: u64::MAX,
            count: 1,
        },
        Span {
            address: u64::MAX / BLOCK * BLOCK,
            count: u16::MAX,
        },
    ];
    for span in outside {
        assert_eq!(state.may_plug(span), Err(Response::Error), "{span:x?}");
        assert_eq!(state.may_unplug(span), Err(Response::Error), "{span:x?}");
        assert_eq!(state.look(span), Err(Response::Error), "{span:x?}");
    }
    assert_eq!(state.may_plug(span(7, 1)), Ok(7..8));
    let nothing = self::state(0);
    assert_eq!(nothing.look(span(0, 1)), Err(Response::Error));
}

#[test]
fn whole_chunks_become_usable_and_stay_so() {
    let mut state = state(0);
    assert_eq!(state.usable_chunks(), 0);
    assert!(state.request(1));
    assert_eq!((state.requested(), state.usable_chunks()), (BLOCK, 1));
    assert!(!state.request(BLOCK));
    assert!(state.request(CHUNK + 1));
    assert_eq!((state.requested(), state.usable_chunks()), (5 * BLOCK, 2));
    assert!(state.request(0));
    assert_eq!((state.requested(), state.usable_chunks()), (0, 2));
    assert!(state.request(u64::MAX));
    assert_eq!((state.requested(), state.usable_chunks()), (3 * CHUNK, 3));
}

#[test]
fn a_chunk_is_empty_without_plugged_blocks() {
    let mut state = state(12);
    plug(&mut state, 3, 2).unwrap();
    assert_eq!(
        [0, 1, 2, 3].map(|chunk| state.is_empty(chunk)),
        [false, false, true, true]
    );
    assert_eq!(state.chunks_of(&(3..5)), 0..2);
    assert_eq!(state.chunks_of(&(4..8)), 1..2);
    unplug(&mut state, 3, 1).unwrap();
    assert!(state.is_empty(0) && !state.is_empty(1));
    state.clear();
    assert!(state.is_empty(1));
    assert_eq!(state.plugged(), 0);
}

#[test]
fn the_configuration_tells_what_the_driver_needs() {
    let mut state = state(6);
    plug(&mut state, 0, 1).unwrap();
    let config = state.config();
    let fields: Vec<u64> = config
        .as_chunks()
        .0
        .iter()
        .map(|field| u64::from_le_bytes(*field))
        .collect();
    assert_eq!(fields, [BLOCK, 0, START, 3 * CHUNK, 2 * CHUNK, BLOCK, 6 * BLOCK]);
}
