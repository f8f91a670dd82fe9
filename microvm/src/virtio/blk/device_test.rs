use std::fs::File;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{FakeQueue, Piece, counting_interrupt, guest_memory};

struct Rig {
    memory: GuestMemory,
    driver: FakeQueue,
    device: BlkDevice,
    file: File,
}

/// A disk of 1 MiB whose sector n is filled with the byte n.
fn rig(read_only: bool) -> Rig {
    let file = File::from(nix::sys::memfd::memfd_create(c"disk", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
    for sector in 0..2048u64 {
        file.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
    }
    let memory = guest_memory(1 << 20);
    let (driver, active) = FakeQueue::new(&memory, 0, 64);
    let disk = Disk::new(
        file.try_clone().unwrap(),
        "a-disk-with-a-very-long-name".to_owned(),
        read_only,
    )
    .unwrap();
    let mut device = BlkDevice::new(disk);
    let interrupt = counting_interrupt();
    let activation = Activation {
        memory: memory.clone(),
        features: 0,
        queues: vec![Some(active)],
        interrupt,
    };
    device.activate(activation).unwrap();
    Rig {
        memory,
        driver,
        device,
        file,
    }
}

impl Rig {
    /// Sends a request with one data piece at 0x10000; returns its status and the length reported.
    fn request(&mut self, kind: u32, sector: u64, data: Piece) -> (u8, u32) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.memory.write_slice(&header, GuestAddress(0x8000)).unwrap();
        self.memory.write_obj(0xeeu8, GuestAddress(0x9000)).unwrap();
        let header = Piece {
            at: 0x8000,
            len: 16,
            writable: false,
        };
        let status = Piece {
            at: 0x9000,
            len: 1,
            writable: true,
        };
        self.driver.add(&[header, data, status]);
        self.driver.kick();
        let (_, length) = self.driver.wait_used("an answer of the disk");
        (self.memory.read_obj(GuestAddress(0x9000)).unwrap(), length)
    }
}

const DATA: u64 = 0x1_0000;

#[test]
fn what_was_written_is_read_back() {
    let mut rig = rig(false);
    let read = Piece {
        at: DATA,
        len: 1024,
        writable: true,
    };
    assert_eq!(rig.request(0, 7, read), (0, 1025));
    let mut bytes = [0u8; 1024];
    rig.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert_eq!((bytes[0], bytes[511], bytes[512]), (7, 7, 8));
    rig.memory.write_slice(&[0xab; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(
        rig.request(
            1,
            9,
            Piece {
                at: DATA,
                len: 512,
                writable: false
            }
        ),
        (0, 1)
    );
    assert_eq!(
        rig.request(
            4,
            0,
            Piece {
                at: DATA,
                len: 0,
                writable: false
            }
        ),
        (0, 1)
    );
    let mut byte = [0u8];
    rig.file.read_exact_at(&mut byte, 9 * 512).unwrap();
    assert_eq!(byte, [0xab]);
}

#[test]
fn discarded_ranges_read_as_zeros() {
    let mut rig = rig(false);
    let range = [&16u64.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    rig.memory.write_slice(&range, GuestAddress(DATA)).unwrap();
    assert_eq!(
        rig.request(
            11,
            0,
            Piece {
                at: DATA,
                len: 16,
                writable: false
            }
        ),
        (0, 1)
    );
    let mut bytes = [1u8; 512 * 10];
    rig.file.read_exact_at(&mut bytes, 15 * 512).unwrap();
    assert_eq!((bytes[0], bytes[512], bytes[8 * 512], bytes[9 * 512]), (15, 0, 0, 24));
}

#[test]
fn the_serial_number_is_the_beginning_of_the_name() {
    let mut rig = rig(true);
    assert_eq!(
        rig.request(
            8,
            0,
            Piece {
                at: DATA,
                len: 20,
                writable: true
            }
        ),
        (0, 21)
    );
    let mut bytes = [0u8; 20];
    rig.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert_eq!(&bytes, b"a-disk-with-a-very-l");
}

#[test]
fn a_read_only_disk_is_announced_and_refuses_writes() {
    let mut rig = rig(true);
    assert_ne!(rig.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(
        rig.request(
            1,
            9,
            Piece {
                at: DATA,
                len: 512,
                writable: false
            }
        ),
        (1, 1)
    );
    let mut byte = [0u8];
    rig.file.read_exact_at(&mut byte, 9 * 512).unwrap();
    assert_eq!(byte, [9]);
}

#[test]
fn a_file_that_shrank_is_an_error_of_the_request() {
    let mut rig = rig(false);
    rig.file.set_len(512).unwrap();
    assert_eq!(
        rig.request(
            0,
            100,
            Piece {
                at: DATA,
                len: 512,
                writable: true
            }
        ),
        (1, 1)
    );
    assert_eq!(
        rig.request(
            0,
            0,
            Piece {
                at: DATA,
                len: 512,
                writable: true
            }
        ),
        (0, 513)
    );
}

#[test]
fn the_configuration_tells_the_capacity_and_ends_in_zeros() {
    let rig = rig(false);
    let mut bytes = [0xff; 16];
    rig.device.read_config(0, &mut bytes);
    assert_eq!(bytes[..8], 2048u64.to_le_bytes());
    rig.device.read_config(58, &mut bytes);
    assert_eq!(bytes, [0; 16]);
    rig.device.read_config(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 16]);
}
