//! A guest's virtio-fs driver for the tests of this folder: makes FUSE requests and reads the answers.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::FsDevice;
use crate::file_server::{Crowd, FileServer};
use crate::virtio::device::{Activation, GuestMemory, VirtioDevice};
use crate::virtio::testing::{CountingInterrupt, FakeQueue, Piece, counting_interrupt, guest_memory, wait_for};

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const SYMLINK: u32 = 6;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const RENAME: u32 = 12;
pub const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const SETXATTR: u32 = 21;
pub const GETXATTR: u32 = 22;
pub const RELEASE: u32 = 18;
pub const FLUSH: u32 = 25;
pub const INIT: u32 = 26;
pub const GETLK: u32 = 31;
pub const SETLK: u32 = 32;
pub const SETLKW: u32 = 33;
pub const OPENDIR: u32 = 27;
pub const CREATE: u32 = 35;
pub const BATCH_FORGET: u32 = 42;
pub const READDIRPLUS: u32 = 44;
pub const TMPFILE: u32 = 51;
pub const ROOT: u64 = 1;

const HIPRIO_RING: u64 = 0x1000;
const REQUEST_RING: u64 = 0x4000;
const BUFFERS: u64 = 0x10_0000;
const SLOT: u64 = 0x4_0000;

/// An answer: the error (positive) or the bytes behind the header.
pub type Answer = Result<Vec<u8>, i32>;

/// A directory of the host that is removed in the end.
pub struct TempDir {
    pub path: PathBuf,
}

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "bulkhead-fs-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        // The servers of other tests clear the umask.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        TempDir { path }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).unwrap();
    }
}

/// A request under way.
pub struct Pending {
    pub head: u16,
    slot: u64,
    unique: u64,
}

/// A guest with its device.
pub struct Guest {
    pub device: FsDevice,
    pub memory: GuestMemory,
    pub hiprio: FakeQueue,
    pub requests: FakeQueue,
    pub interrupt: Arc<CountingInterrupt>,
    pub uid: u32,
    answered: Vec<(u16, u32)>,
    unique: u64,
}

impl Guest {
    /// A guest that has mounted `share`.
    pub fn start(share: &Path) -> Guest {
        Guest::start_in(share, Arc::default())
    }

    /// The same, whose files are counted in `crowd`.
    pub fn start_in(share: &Path, crowd: Arc<Crowd>) -> Guest {
        let descriptors = File::open("/proc/self/fd").unwrap().into();
        let server = FileServer::new(share.to_str().unwrap(), descriptors, Arc::default(), crowd).unwrap();
        let memory = guest_memory(0x100_0000);
        let (hiprio, _) = FakeQueue::new(&memory, HIPRIO_RING, 64);
        let (requests, _) = FakeQueue::new(&memory, REQUEST_RING, 512);
        let mut guest = Guest {
            device: FsDevice::new("share", server).unwrap(),
            memory,
            hiprio,
            requests,
            interrupt: counting_interrupt(),
            uid: 0,
            answered: Vec::new(),
            unique: 0,
        };
        guest.activate(1 << 29);
        guest.mount();
        guest
    }

    /// What a driver does after a reset: fresh rings, DRIVER_OK.
    pub fn activate(&mut self, features: u64) {
        self.memory.write_slice(&[0; 0x10000], GuestAddress(0)).unwrap();
        let (hiprio, hiprio_active) = FakeQueue::new(&self.memory, HIPRIO_RING, 64);
        let (requests, requests_active) = FakeQueue::new(&self.memory, REQUEST_RING, 512);
        (self.hiprio, self.requests) = (hiprio, requests);
        self.answered.clear();
        let queues = vec![Some(hiprio_active), Some(requests_active)];
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

    /// FUSE_INIT; returns the flags that were granted.
    pub fn mount(&mut self) -> u64 {
        let mut arguments = Vec::new();
        // Version, read-ahead, and every flag that there is, in two parts.
        for number in [7, 38, 131_072, u32::MAX, u32::MAX] {
            arguments.extend(number.to_le_bytes());
        }
        arguments.extend([0; 44]);
        let answer = self.call(INIT, 0, &arguments, 64).unwrap();
        u64::from(u32_at(&answer, 12)) | u64::from(u32_at(&answer, 32)) << 32
    }

    /// Starts a request with room for `room` bytes of answer.
    pub fn begin(&mut self, opcode: u32, node: u64, arguments: &[u8], room: u32) -> Pending {
        let unique = self.unique + 1;
        self.unique = unique;
        let slot = BUFFERS + (unique % 32) * SLOT;
        let mut request = Vec::new();
        request.extend((40 + arguments.len() as u32).to_le_bytes());
        request.extend(opcode.to_le_bytes());
        request.extend(unique.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend(self.uid.to_le_bytes());
        request.extend(self.uid.to_le_bytes());
        request.extend([0; 8]);
        request.extend(arguments);
        self.memory.write_slice(&request, GuestAddress(slot)).unwrap();
        // As Linux does it: header and arguments in, header and arguments out, each in a descriptor of its own.
        let mut pieces = vec![Piece {
            at: slot,
            len: 40,
            writable: false,
        }];
        if !arguments.is_empty() {
            pieces.push(Piece {
                at: slot + 40,
                len: arguments.len() as u32,
                writable: false,
            });
        }
        pieces.push(Piece {
            at: slot + SLOT / 2,
            len: 16,
            writable: true,
        });
        if room > 0 {
            pieces.push(Piece {
                at: slot + SLOT / 2 + 16,
                len: room,
                writable: true,
            });
        }
        let head = self.requests.add(&pieces);
        self.requests.kick();
        Pending { head, slot, unique }
    }

    /// The answer if it has come.
    pub fn try_finish(&mut self, pending: &Pending) -> Option<Answer> {
        while let Some(used) = self.requests.take_used() {
            self.answered.push(used);
        }
        let at = self.answered.iter().position(|(head, _)| *head == pending.head)?;
        let (_, length) = self.answered.remove(at);
        let mut answer = vec![0; length as usize];
        self.memory
            .read_slice(&mut answer, GuestAddress(pending.slot + SLOT / 2))
            .unwrap();
        assert_eq!(u32_at(&answer, 0), length);
        assert_eq!(u64_at(&answer, 8), pending.unique);
        let error = u32_at(&answer, 4) as i32;
        Some(if error == 0 {
            Ok(answer.split_off(16))
        } else {
            Err(-error)
        })
    }

    pub fn finish(&mut self, pending: &Pending) -> Answer {
        wait_for("an answer", || self.try_finish(pending))
    }

    pub fn call(&mut self, opcode: u32, node: u64, arguments: &[u8], room: u32) -> Answer {
        let pending = self.begin(opcode, node, arguments, room);
        self.finish(&pending)
    }

    /// The node of `name` below `parent`.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        let answer = self.call(LOOKUP, parent, format!("{name}\0").as_bytes(), 128)?;
        Ok(u64_at(&answer, 0))
    }

    /// Gives up lookups of a node, and waits until that is served.
    pub fn forget(&mut self, node: u64, lookups: u64) {
        let mut request = Vec::new();
        request.extend(48u32.to_le_bytes());
        request.extend(FORGET.to_le_bytes());
        request.extend(99u64.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend([0; 16]);
        request.extend(lookups.to_le_bytes());
        self.memory.write_slice(&request, GuestAddress(0x8_0000)).unwrap();
        self.hiprio.add(&[Piece {
            at: 0x8_0000,
            len: 48,
            writable: false,
        }]);
        self.hiprio.kick();
        assert_eq!(self.hiprio.wait_used("the forget").1, 0);
    }

    /// The handle of an open file.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let answer = self.call(OPEN, node, &open_arguments(flags), 16)?;
        Ok(u64_at(&answer, 0))
    }

    pub fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Answer {
        self.call(READ, node, &transfer_arguments(handle, offset, size), size)
    }

    pub fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let mut arguments = transfer_arguments(handle, offset, data.len() as u32);
        arguments.extend(data);
        Ok(u32_at(&self.call(WRITE, node, &arguments, 8)?, 0))
    }
}

pub fn open_arguments(flags: i32) -> Vec<u8> {
    [flags.to_le_bytes(), [0; 4]].concat()
}

/// Arguments of READ, WRITE and READDIRPLUS.
pub fn transfer_arguments(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    let mut arguments = [handle.to_le_bytes(), offset.to_le_bytes()].concat();
    arguments.extend(size.to_le_bytes());
    arguments.extend([0; 20]);
    arguments
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// `struct fuse_lk_in`: what `owner` asks for through `handle`.
pub fn lock_arguments(handle: u64, owner: u64, kind: i32, range: (u64, u64), flags: u32) -> Vec<u8> {
    let mut arguments = [handle, owner, range.0, range.1].map(u64::to_le_bytes).concat();
    arguments.extend([kind as u32, 77, flags, 0].map(u32::to_le_bytes).concat());
    arguments
}

/// Arguments of CREATE and TMPFILE.
pub fn create_arguments(flags: i32, mode: u32, umask: u32, name: &str) -> Vec<u8> {
    let mut arguments = flags.to_le_bytes().to_vec();
    for number in [mode, umask, 0] {
        arguments.extend(number.to_le_bytes());
    }
    arguments.extend(name.as_bytes());
    arguments.push(0);
    arguments
}
