use vm_memory::Bytes;

use super::*;

#[test]
fn a_machine_above_the_hole_has_both_ranges() {
    let memory = reserve(&Layout::new(4 * 1024)).unwrap();
    memory.write_obj(7u32, GuestAddress((5 << 30) - 4)).unwrap();
    assert!(memory.write_obj(7u32, GuestAddress(3 << 30)).is_err());
    assert!(memory.write_obj(7u32, GuestAddress(5 << 30)).is_err());
}
