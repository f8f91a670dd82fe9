use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: [0, 0x80, 0x01],
    subsystem: 0x1042,
};

fn space() -> ConfigSpace {
    ConfigSpace::new(IDENTITY, 0xd000_0000, 0x4000)
}

#[test]
fn sizing_a_bar_shows_its_size_and_keeps_its_type() {
    let mut space = space();
    space.write(BAR_0, &[0xff; 4]);
    assert_eq!(space.read_u32(BAR_0), !0x3fff);
    space.write(BAR_0, &0xd123_4567u32.to_le_bytes());
    assert_eq!(space.read_u32(BAR_0), 0xd123_4000);
    space.write(BAR_0 + 4, &[0xff; 4]);
    assert_eq!(space.read_u32(BAR_0 + 4), 0, "there is no second BAR");
}

#[test]
fn a_bar_answers_only_while_memory_is_enabled() {
    let mut space = space();
    assert_eq!(space.bar(), None);
    space.write(COMMAND, &[0xff, 0xff]);
    assert_eq!(space.read_u16(COMMAND), 0x0406);
    assert_eq!(space.bar(), Some((0xd000_0000, 0x4000)));
    space.write(COMMAND, &[0]);
    assert_eq!(space.bar(), None);
}

#[test]
fn capabilities_form_a_list() {
    let mut space = space();
    let first = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).unwrap();
    let second = space.add_capability(0x09, &[0x10; 14], &[]).unwrap();
    assert_eq!((first, second), (0x40, 0x4c));
    assert_eq!(space.bytes()[CAPABILITY_POINTER], 0x40);
    assert_eq!(space.bytes()[0x40..0x42], [0x11, 0x4c]);
    assert_eq!(space.bytes()[0x4c..0x4e], [0x09, 0]);
    space.write(0x42, &[0xff, 0xff]);
    assert_eq!(space.read_u16(0x42), 0xc000);
    assert_eq!(space.add_capability(0x09, &[0; 200], &[]), None);
}

#[test]
fn accesses_beyond_the_end_are_harmless() {
    let mut space = space();
    space.write(254, &[0xff; 8]);
    let mut data = [0xaa; 8];
    space.read(252, &mut data);
    assert_eq!(data, [0; 8]);
}
