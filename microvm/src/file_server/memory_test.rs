use vm_memory::Bytes;

use super::*;
use crate::memory::Hotplug;

#[test]
fn memory_that_was_opened_meanwhile_is_seen_without_a_seam() {
    let chunk = 4 << 20;
    let room = Hotplug {
        start: GuestAddress(64 << 20),
        length: 3 * chunk,
        chunk,
    };
    let memory = GuestMemory::reserve(&[(GuestAddress(0), 4 << 20)], Some(room)).unwrap();
    let server = ServerMemory::new(memory.clone()).unwrap();
    assert_eq!(server.view().unwrap().num_regions(), 1);
    memory.open(2);
    let view = server.view().unwrap();
    assert_eq!(view.num_regions(), 2);
    let seam = GuestAddress(room.start.0 + chunk - 4);
    view.get_slice(seam, 8).unwrap();
    view.write_obj(7u64, seam).unwrap();
    assert_eq!(memory.read_obj::<u64>(seam).unwrap(), 7);
    assert!(view.get_slice(GuestAddress(room.start.0 + 2 * chunk), 8).is_err());
    assert!(Arc::ptr_eq(&view, &server.view().unwrap()));
}
