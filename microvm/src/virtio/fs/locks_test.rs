//! Locks of the guest, seen by other owners in it and by the host.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, F_RDLCK, F_UNLCK, F_WRLCK};

use super::guest_test::*;

const END: u64 = i64::MAX as u64;
const FLOCK: u32 = 1;
const BUSY: Answer = Err(libc::EAGAIN);

struct Locked {
    guest: Guest,
    share: TempDir,
    node: u64,
    handle: u64,
}

impl Locked {
    fn start() -> Locked {
        let share = TempDir::new();
        fs::write(share.path.join("file"), b"content").unwrap();
        let mut guest = Guest::start(&share.path);
        let node = guest.lookup(ROOT, "file").unwrap();
        let handle = guest.open(node, libc::O_RDWR).unwrap();
        Locked {
            guest,
            share,
            node,
            handle,
        }
    }

    fn set(&mut self, owner: u64, kind: i32, range: (u64, u64)) -> Answer {
        let arguments = lock_arguments(self.handle, owner, kind, range, 0);
        self.guest.call(SETLKW, self.node, &arguments, 0)
    }

    fn flock(&mut self, handle: u64, kind: i32) -> Answer {
        let arguments = lock_arguments(handle, 5, kind, (0, END), FLOCK);
        self.guest.call(SETLK, self.node, &arguments, 0)
    }

    /// Type, process, start and end of what is in the way of a lock for writing.
    fn in_the_way(&mut self, owner: u64) -> (i32, u32, u64, u64) {
        let arguments = lock_arguments(self.handle, owner, F_WRLCK, (0, END), 0);
        let answer = self.guest.call(GETLK, self.node, &arguments, 24).unwrap();
        (
            u32_at(&answer, 16) as i32,
            u32_at(&answer, 20),
            u64_at(&answer, 0),
            u64_at(&answer, 8),
        )
    }

    fn end(&mut self, opcode: u32, handle: u64, owner: u64) {
        let arguments = [handle.to_le_bytes(), [0; 8], owner.to_le_bytes()].concat();
        self.guest.call(opcode, self.node, &arguments, 0).unwrap();
    }
}

/// Whether the host can lock a byte for writing.
fn is_free(share: &Path, at: u64) -> bool {
    let file = File::options().read(true).write(true).open(share.join("file")).unwrap();
    let asked = libc::flock {
        l_type: F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at as libc::off_t,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&asked)).is_ok()
}

#[test]
fn a_range_keeps_other_owners_and_the_host_away() {
    let mut files = Locked::start();
    assert_eq!(files.set(1, F_WRLCK, (10, 19)), Ok(vec![]));
    assert_eq!(files.set(2, F_RDLCK, (19, 30)), BUSY);
    assert_eq!(files.set(2, F_RDLCK, (20, 30)), Ok(vec![]));
    assert_eq!(files.in_the_way(2), (F_WRLCK, 77, 10, 19));
    assert_eq!(files.in_the_way(1), (F_RDLCK, 77, 20, 30));
    let free: Vec<u64> = (8..33).filter(|at| is_free(&files.share.path, *at)).collect();
    assert_eq!(free, [8, 9, 31, 32]);

    // From the middle of a range.
    assert_eq!(files.set(1, F_UNLCK, (12, 14)), Ok(vec![]));
    assert!(is_free(&files.share.path, 13) && !is_free(&files.share.path, 15));
    assert_eq!(files.set(1, F_UNLCK, (0, END)), Ok(vec![]));
    assert_eq!(files.in_the_way(2).0, F_UNLCK);
    assert_eq!(files.set(3, F_UNLCK, (0, END)), Ok(vec![]));
}

#[test]
fn a_lock_that_was_granted_is_there_whatever_other_threads_of_the_owner_do() {
    let mut files = Locked::start();
    for round in 0..500 {
        let lock = lock_arguments(files.handle, 1, F_WRLCK, (0, 0), 0);
        let unlock = lock_arguments(files.handle, 1, F_UNLCK, (1, 1), 0);
        let both = [&unlock, &lock, &unlock].map(|arguments| files.guest.begin(SETLK, files.node, arguments, 0));
        for pending in &both {
            assert_eq!(files.guest.finish(pending), Ok(vec![]));
        }
        assert!(!is_free(&files.share.path, 0), "round {round}");
        assert_eq!(files.set(1, F_UNLCK, (0, 0)), Ok(vec![]));
    }
}

#[test]
fn an_owners_locks_end_when_it_closes_the_file() {
    let mut files = Locked::start();
    assert_eq!(files.set(1, F_WRLCK, (0, 0)), Ok(vec![]));
    assert_eq!(files.set(2, F_WRLCK, (1, END)), Ok(vec![]));
    let handle = files.handle;
    files.end(FLUSH, handle, 1);
    assert!(is_free(&files.share.path, 0) && !is_free(&files.share.path, 1));
    // An open file description's owner, which no FLUSH names.
    files.end(RELEASE, handle, 0);
    assert!(is_free(&files.share.path, 1));
}

#[test]
fn a_lock_for_reading_becomes_one_for_writing_through_another_handle() {
    let mut files = Locked::start();
    let (node, writable) = (files.node, files.handle);
    files.handle = files.guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(files.set(1, F_WRLCK, (0, 9)), Err(libc::EBADF));
    assert_eq!(files.set(1, F_RDLCK, (0, 9)), Ok(vec![]));
    assert_eq!(files.set(1, F_RDLCK, (20, 29)), Ok(vec![]));
    files.handle = writable;
    assert_eq!(files.set(1, F_WRLCK, (0, 4)), Ok(vec![]));
    assert_eq!(files.in_the_way(2), (F_WRLCK, 77, 0, 4));
    let free: Vec<u64> = (0..31).filter(|at| is_free(&files.share.path, *at)).collect();
    assert_eq!(free, (10..20).chain([30]).collect::<Vec<u64>>());
}

#[test]
fn flock_belongs_to_an_open_file() {
    let mut files = Locked::start();
    let (one, node) = (files.handle, files.node);
    let two = files.guest.open(node, libc::O_RDONLY).unwrap();
    let host = File::open(files.share.path.join("file")).unwrap();
    assert_eq!(files.flock(one, F_WRLCK), Ok(vec![]));
    assert_eq!(files.flock(two, F_RDLCK), BUSY);
    assert!(host.try_lock_shared().is_err());
    assert_eq!(files.flock(one, F_RDLCK), Ok(vec![]));
    assert_eq!(files.flock(two, F_RDLCK), Ok(vec![]));
    assert!(host.try_lock().is_err());
    assert_eq!(files.flock(two, F_UNLCK), Ok(vec![]));
    files.end(RELEASE, one, 0);
    assert!(host.try_lock().is_ok());
}

#[test]
fn the_host_is_free_of_locks_when_the_guest_is_reset() {
    let mut files = Locked::start();
    assert_eq!(files.set(1, F_WRLCK, (0, END)), Ok(vec![]));
    crate::virtio::device::VirtioDevice::reset(&mut files.guest.device);
    assert!(is_free(&files.share.path, 0));
}

#[test]
fn strange_locks_are_answered_with_errors() {
    let mut files = Locked::start();
    for range in [(5, 4), (0, END + 1), (u64::MAX, u64::MAX)] {
        assert_eq!(files.set(1, F_WRLCK, range), Err(libc::EINVAL));
    }
    assert_eq!(files.set(1, 9, (0, 1)), Err(libc::EINVAL));
    files.handle = 999;
    assert_eq!(files.set(1, F_WRLCK, (0, 1)), Err(libc::EBADF));
    assert_eq!(files.flock(999, F_WRLCK), Err(libc::EBADF));
    let node = files.node;
    // Too short for a lock: no answer can be given, and the server goes on.
    let pending = files.guest.begin(SETLK, node, &[0; 8], 0);
    assert_eq!(files.guest.requests.wait_used("the short lock"), (pending.head, 0));
    files.flock(999, F_UNLCK).unwrap_err();
}

#[test]
fn owners_and_ranges_are_bounded() {
    let mut files = Locked::start();
    let refused = (0..3000u64).find(|n| files.set(n + 1, F_RDLCK, (0, 0)) == Err(libc::ENOLCK));
    assert_eq!(refused, Some(2048));
    let handle = files.handle;
    for owner in 1..=2048 {
        files.end(FLUSH, handle, owner);
    }
    let refused = (0..10_000u64).find(|n| files.set(1, F_WRLCK, (2 * n, 2 * n)) == Err(libc::ENOLCK));
    assert_eq!(refused, Some(8192));
    assert_eq!(files.set(1, F_UNLCK, (0, END)), Ok(vec![]));
    // Giving back a byte from the middle of a range makes two of it.
    assert_eq!(files.set(1, F_WRLCK, (0, END)), Ok(vec![]));
    let refused = (1..10_000u64).find(|n| files.set(1, F_UNLCK, (2 * n, 2 * n)) == Err(libc::ENOLCK));
    assert_eq!(refused, Some(8192));
    assert_eq!(files.set(1, F_UNLCK, (0, END)), Ok(vec![]));
    assert_eq!(files.set(1, F_WRLCK, (0, 0)), Ok(vec![]));
}
