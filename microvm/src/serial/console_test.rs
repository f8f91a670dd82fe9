use super::*;

#[test]
fn the_ring_keeps_the_end_and_starts_at_a_line() {
    let ring = ConsoleRing::new();
    let mut writer = ConsoleWriter::new(ring.clone(), None);
    for number in 0..10_000 {
        write!(writer, "line {number}\r\n").unwrap();
    }
    let text = ring.last(100);
    assert!(text.len() <= 100);
    assert!(text.starts_with("line 99"), "{text}");
    assert!(text.ends_with("line 9999\n"));
    assert!(ring.last(RING_BYTES * 2).len() <= RING_BYTES);
}

#[test]
fn bytes_that_are_no_text_stay_within_the_bound() {
    let ring = ConsoleRing::new();
    ConsoleWriter::new(ring.clone(), None).write_all(&[0xff; 5000]).unwrap();
    assert!(ring.last(4096).len() <= 4096);
}

#[test]
fn a_panic_is_noticed_even_after_it_left_the_ring() {
    let ring = ConsoleRing::new();
    let mut writer = ConsoleWriter::new(ring.clone(), None);
    writer.write_all(b"KKernel panic - not synching").unwrap();
    assert!(!ring.panicked());
    for byte in b"[ 1.0] Kernel panic - not syncing: boo" {
        writer.write_all(&[*byte]).unwrap();
    }
    writer.write_all(&[b'x'; 2 * RING_BYTES]).unwrap();
    assert!(ring.panicked());
}
