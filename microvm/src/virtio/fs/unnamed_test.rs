//! Files without a name (FUSE_TMPFILE).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::libc;

use super::guest_test::*;

/// Makes one in the root with mode 0666; gives its node and handle.
fn create(guest: &mut Guest, umask: u32) -> Result<(u64, u64), i32> {
    let arguments = create_arguments(libc::O_RDWR | libc::O_TMPFILE, 0o100666, umask, "#1");
    let answer = guest.call(TMPFILE, ROOT, &arguments, 144)?;
    assert_eq!(u32_at(&answer, 40 + 64), 0, "links");
    Ok((u64_at(&answer, 0), u64_at(&answer, 128)))
}

/// `struct fuse_setattr_in`.
fn set_attributes(valid: u32, size: u64, mode: u32) -> Vec<u8> {
    let mut arguments = vec![0; 88];
    arguments[..4].copy_from_slice(&valid.to_le_bytes());
    arguments[16..24].copy_from_slice(&size.to_le_bytes());
    arguments[68..72].copy_from_slice(&mode.to_le_bytes());
    arguments
}

#[test]
fn it_is_written_read_and_given_a_name() {
    let share = TempDir::new();
    fs::set_permissions(&share.path, fs::Permissions::from_mode(0o777)).unwrap();
    let mut guest = Guest::start(&share.path);
    guest.uid = 1234;
    let (node, handle) = create(&mut guest, 0o027).unwrap();
    assert_eq!(fs::read_dir(&share.path).unwrap().count(), 0);
    assert_eq!(guest.write(node, handle, 0, b"without a name").unwrap(), 14);
    let again = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(node, again, 8, 100).unwrap(), b"a name");
    assert_eq!(guest.write(node, again, 0, b"x"), Err(libc::EBADF));

    let arguments = [&node.to_le_bytes()[..], b"named\0"].concat();
    let answer = guest.call(LINK, ROOT, &arguments, 128).unwrap();
    let named = u64_at(&answer, 0);
    assert_eq!(guest.lookup(ROOT, "named"), Ok(named));
    let metadata = fs::metadata(share.path.join("named")).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode(), metadata.nlink()),
        (1234, 1234, 0o100640, 1)
    );
    assert_eq!(fs::read(share.path.join("named")).unwrap(), b"without a name");
    assert_eq!(guest.call(LINK, ROOT, &arguments, 128), Err(libc::EEXIST));
    // The handles go on with the same file, so nothing about it is believed under its new number.
    assert_eq!((u64_at(&answer, 16), u64_at(&answer, 24)), (0, 0));
    let attributes = guest.call(GETATTR, named, &[0; 16], 104).unwrap();
    assert_eq!(u64_at(&attributes, 0), 0);
    assert_eq!(guest.write(node, handle, 0, b"W").unwrap(), 1);
    assert_eq!(fs::read(share.path.join("named")).unwrap(), b"Without a name");
    // Opened once more, and emptied by that.
    guest.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(fs::read(share.path.join("named")).unwrap(), b"");
}

#[test]
fn its_attributes_change() {
    let share = TempDir::new();
    let mut guest = Guest::start(&share.path);
    let (node, handle) = create(&mut guest, 0).unwrap();
    guest.write(node, handle, 0, b"content").unwrap();
    // FATTR_MODE and FATTR_SIZE.
    let answer = guest
        .call(SETATTR, node, &set_attributes(1 | 8, 3, 0o106755), 104)
        .unwrap();
    assert_eq!((u64_at(&answer, 16 + 8), u32_at(&answer, 16 + 60)), (3, 0o106755));
    // FATTR_KILL_SUIDGID.
    let answer = guest.call(SETATTR, node, &set_attributes(1 << 11, 0, 0), 104).unwrap();
    assert_eq!(u32_at(&answer, 16 + 60), 0o100755);
    // FATTR_MTIME with a time that there is not.
    let mut far = set_attributes(1 << 5, 0, 0);
    far[40..48].fill(0xff);
    far[60..64].fill(0xff);
    assert_eq!(guest.call(SETATTR, node, &far, 104), Err(libc::EINVAL));
    // Before 1970.
    far[60..64].fill(0);
    let answer = guest.call(SETATTR, node, &far, 104).unwrap();
    assert_eq!(u64_at(&answer, 16 + 32) as i64, -1);
    let mut arguments = [4u32.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    arguments.extend(b"security.capability\0four");
    assert_eq!(guest.call(SETXATTR, node, &arguments, 0), Err(libc::EINVAL));
}

#[test]
fn it_is_gone_when_the_guest_forgets_it() {
    let share = TempDir::new();
    let mut guest = Guest::start(&share.path);
    let (node, handle) = create(&mut guest, 0).unwrap();
    assert!(
        guest
            .call(SETLK, node, &lock_arguments(handle, 1, libc::F_WRLCK, (0, 1), 0), 0)
            .is_ok()
    );
    let arguments = [handle.to_le_bytes(), [0; 8], [0; 8]].concat();
    guest.call(RELEASE, node, &arguments, 0).unwrap();
    assert_eq!(guest.read(node, handle, 0, 1), Err(libc::EBADF));
    assert!(guest.call(GETATTR, node, &[0; 16], 104).is_ok());
    let forgotten = [1, node, 1].map(u64::to_le_bytes).concat();
    let pending = guest.begin(BATCH_FORGET, 0, &forgotten, 0);
    assert_eq!(guest.requests.wait_used("the forget"), (pending.head, 0));
    assert_eq!(guest.call(GETATTR, node, &[0; 16], 104), Err(libc::EBADF));
    assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::EBADF));
}

#[test]
fn as_many_as_are_allowed() {
    let share = TempDir::new();
    let mut guest = Guest::start(&share.path);
    let refused = (0..1100).find(|_| create(&mut guest, 0) == Err(libc::ENFILE));
    assert_eq!(refused, Some(1024));
}
