//! Opts into unsafe code for fcntl(F_SETLEASE), which makes an open of the server wait.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;

use super::guest_test::*;
use super::*;
use crate::file_server::FileServer;
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::Piece;

const FUSE_POSIX_LOCKS: u64 = 1 << 1;
const FUSE_FLOCK_LOCKS: u64 = 1 << 10;
const FUSE_AUTO_INVAL_DATA: u64 = 1 << 12;
const FUSE_SUBMOUNTS: u64 = 1 << 27;
const FUSE_WRITEBACK_CACHE: u64 = 1 << 16;

fn share_with(name: &str, content: &[u8]) -> TempDir {
    let share = TempDir::new();
    fs::write(share.path.join(name), content).unwrap();
    share
}

#[test]
fn config_space_holds_the_tag_and_the_number_of_queues() {
    let share = TempDir::new();
    let guest = Guest::start(&share.path);
    let mut config = [0xff; 44];
    guest.device.read_config(0, &mut config);
    assert_eq!(&config[..6], b"share\0");
    assert_eq!(&config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_tag_must_fit() {
    for tag in ["", &"x".repeat(37)] {
        let descriptors = File::open("/proc/self/fd").unwrap().into();
        let server = FileServer::new("/", descriptors, Arc::default(), Arc::default()).unwrap();
        assert_eq!(
            FsDevice::new(tag, server).err(),
            Some(FsDeviceError::Tag(tag.to_owned()))
        );
    }
}

#[test]
fn a_file_is_looked_up_opened_and_read() {
    let share = share_with("hello", b"from the host");
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "hello").unwrap();
    let handle = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(node, handle, 5, 4096).unwrap(), b"the host");
    assert_eq!(guest.lookup(ROOT, "absent"), Err(libc::ENOENT));
}

#[test]
fn locks_are_served_and_submounts_are_announced() {
    let share = TempDir::new();
    let mut guest = Guest::start(&share.path);
    let granted = guest.mount();
    assert_eq!(
        granted & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_WRITEBACK_CACHE),
        FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS
    );
    assert_eq!(
        granted & (FUSE_SUBMOUNTS | FUSE_AUTO_INVAL_DATA),
        FUSE_SUBMOUNTS | FUSE_AUTO_INVAL_DATA
    );
}

#[test]
fn a_user_of_the_guest_owns_what_it_creates_with_its_own_umask() {
    let share = TempDir::new();
    fs::set_permissions(&share.path, fs::Permissions::from_mode(0o777)).unwrap();
    let mut guest = Guest::start(&share.path);
    guest.uid = 1234;
    let arguments = create_arguments(libc::O_RDWR, 0o100666, 0o027, "mine");
    let answer = guest.call(CREATE, ROOT, &arguments, 144).unwrap();
    let (node, handle) = (u64_at(&answer, 0), u64_at(&answer, 128));
    assert_eq!(guest.write(node, handle, 0, b"content").unwrap(), 7);
    let metadata = fs::metadata(share.path.join("mine")).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
        (1234, 1234, 0o640)
    );
    assert_eq!(fs::read(share.path.join("mine")).unwrap(), b"content");
}

#[test]
fn a_user_of_the_guest_has_no_more_rights_than_on_the_host() {
    let share = share_with("secret", b"for root");
    fs::set_permissions(share.path.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "secret").unwrap();
    guest.uid = 1234;
    let mut arguments = create_arguments(libc::O_RDWR, 0o100666, 0, "not-here");
    assert_eq!(guest.call(CREATE, ROOT, &arguments, 144), Err(libc::EACCES));
    guest.uid = 0;
    arguments = create_arguments(libc::O_RDWR, 0o100666, 0, "here");
    guest.call(CREATE, ROOT, &arguments, 144).unwrap();
    assert!(guest.open(node, libc::O_RDONLY).is_ok());
}

#[test]
fn file_capabilities_can_be_set_and_read_back() {
    let share = share_with("program", b"");
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "program").unwrap();
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted and effective.
    let value = [[1u8, 0, 0, 2], [0, 4, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    let mut arguments = [(value.len() as u32).to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    arguments.extend(b"security.capability\0");
    arguments.extend(&value);
    guest.call(SETXATTR, node, &arguments, 0).unwrap();
    let mut arguments = [64u32.to_le_bytes(), [0; 4]].concat();
    arguments.extend(b"security.capability\0");
    assert_eq!(guest.call(GETXATTR, node, &arguments, 64).unwrap(), value);
}

#[test]
fn the_share_cannot_be_left_through_its_root() {
    let share = TempDir::new();
    std::os::unix::fs::symlink("/etc", share.path.join("link")).unwrap();
    let mut guest = Guest::start(&share.path);
    for name in ["", ".", "..", "../etc", "/etc", "link/passwd"] {
        assert_eq!(guest.lookup(ROOT, name), Err(libc::EINVAL), "{name}");
    }
}

#[test]
fn nothing_is_made_renamed_or_removed_at_the_end_of_a_path() {
    let share = share_with("file", b"");
    fs::create_dir(share.path.join("folder")).unwrap();
    std::os::unix::fs::symlink(&share.path, share.path.join("link")).unwrap();
    let mut guest = Guest::start(&share.path);
    let file = guest.lookup(ROOT, "file").unwrap();
    let root = ROOT.to_le_bytes();
    for name in ["link/new", "folder/../new", "/new", ".", ".."] {
        let name = format!("{name}\0");
        let after = |arguments: &[u8]| [arguments, name.as_bytes()].concat();
        let requests = [
            (MKDIR, ROOT, after(&[0; 8])),
            (MKNOD, ROOT, after(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            (SYMLINK, ROOT, after(b"").into_iter().chain(*b"target\0").collect()),
            (LINK, ROOT, after(&file.to_le_bytes())),
            (
                CREATE,
                ROOT,
                after(&[2, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ),
            (UNLINK, ROOT, after(b"")),
            (RMDIR, ROOT, after(b"")),
            (RENAME, ROOT, after(&[&root[..], b"file\0"].concat())),
            (RENAME, ROOT, [&root[..], name.as_bytes(), b"new\0"].concat()),
        ];
        for (opcode, node, arguments) in requests {
            let answer = guest.call(opcode, node, &arguments, 144);
            assert_eq!(answer, Err(libc::EINVAL), "request {opcode} with {name}");
        }
    }
    assert_eq!(fs::read_dir(&share.path).unwrap().count(), 3);
}

#[test]
fn a_procfs_is_served_without_the_process_that_serves_it() {
    let mut guest = Guest::start(Path::new("/proc"));
    // Threads of other tests come and go.
    let own = [
        std::process::id().to_string(),
        nix::unistd::gettid().to_string(),
        "self".to_owned(),
        "thread-self".to_owned(),
    ];
    for name in &own {
        // Zero says that there is nothing of this name, and lets a listing go on.
        assert_eq!(guest.lookup(ROOT, name), Ok(0), "{name}");
        let arguments = create_arguments(libc::O_RDWR, 0o100666, 0, name);
        assert_eq!(guest.call(CREATE, ROOT, &arguments, 144), Err(libc::EACCES), "{name}");
    }
    let other = std::process::Command::new("sleep").arg("100").spawn();
    let mut other = other.unwrap();
    let node = guest.lookup(ROOT, &other.id().to_string()).unwrap();
    assert_ne!(guest.lookup(node, "comm").unwrap(), 0);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_ne!(guest.lookup(ROOT, "meminfo").unwrap(), 0);
    // Nobody's memory, whatever it is called.
    let share = share_with("self", b"");
    fs::write(share.path.join("1"), b"").unwrap();
    let mut guest = Guest::start(&share.path);
    assert_ne!(guest.lookup(ROOT, "self").unwrap(), 0);
    assert_ne!(guest.lookup(ROOT, "1").unwrap(), 0);
}

#[test]
fn a_request_that_the_host_keeps_waiting_does_not_keep_others_waiting() {
    let share = share_with("leased", b"");
    fs::write(share.path.join("free"), b"free").unwrap();
    let mut guest = Guest::start(&share.path);
    let leased = guest.lookup(ROOT, "leased").unwrap();
    let free = guest.lookup(ROOT, "free").unwrap();
    let file = File::open(share.path.join("leased")).unwrap();
    // SAFETY: fcntl with integers on an open descriptor.
    let (lease, _) = unsafe {
        (
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK),
            libc::fcntl(file.as_raw_fd(), libc::F_SETOWN, 0),
        )
    };
    assert_eq!(lease, 0, "{}", std::io::Error::last_os_error());
    // An open for writing waits until the lease is given back.
    let blocked: Vec<Pending> = (0..2)
        .map(|_| guest.begin(OPEN, leased, &open_arguments(libc::O_WRONLY), 16))
        .collect();
    for _ in 0..100 {
        let handle = guest.open(free, libc::O_RDONLY).unwrap();
        assert_eq!(guest.read(free, handle, 0, 100).unwrap(), b"free");
    }
    for pending in &blocked {
        assert!(guest.try_finish(pending).is_none(), "the open did not wait");
    }
    drop(file);
    for pending in &blocked {
        guest.finish(pending).unwrap();
    }
}

#[test]
fn forgetting_on_the_high_priority_queue_is_served() {
    let share = share_with("file", b"");
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "file").unwrap();
    guest.forget(node, 1);
    assert_eq!(guest.call(GETATTR, node, &[0; 16], 104), Err(libc::EBADF));
}

#[test]
fn requests_that_no_driver_makes_end_nothing() {
    let share = share_with("file", b"content");
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "file").unwrap();
    let handle = guest.open(node, libc::O_RDWR).unwrap();
    let mut read_nowhere = Vec::new();
    read_nowhere.extend(80u32.to_le_bytes());
    read_nowhere.extend(READ.to_le_bytes());
    read_nowhere.extend([0; 72]);
    vm_memory::Bytes::write_slice(&guest.memory, &read_nowhere, vm_memory::GuestAddress(0x8_0000)).unwrap();
    let chains: [&[Piece]; 6] = [
        &[Piece {
            at: 0x8_0000,
            len: 3,
            writable: false,
        }],
        &[Piece {
            at: 0x8_0000,
            len: 80,
            writable: false,
        }],
        &[
            Piece {
                at: 0x8_0000,
                len: 80,
                writable: false,
            },
            Piece {
                at: 0x9_0000,
                len: 15,
                writable: true,
            },
        ],
        &[Piece {
            at: 0x9_0000,
            len: 64,
            writable: true,
        }],
        &[Piece {
            at: u64::MAX - 4096,
            len: 80,
            writable: false,
        }],
        &[
            Piece {
                at: 0x8_0000,
                len: 80,
                writable: false,
            },
            Piece {
                at: 1 << 40,
                len: 64,
                writable: true,
            },
        ],
    ];
    for chain in chains {
        guest.requests.add(chain);
        guest.requests.kick();
        assert_eq!(guest.requests.wait_used("the request").1, 0);
    }
    for offset in [1 << 63, u64::MAX, i64::MAX as u64] {
        for opcode in [READ, WRITE] {
            let answer = guest.call(opcode, node, &transfer_arguments(handle, offset, 4096), 4096);
            assert_eq!(answer, Err(libc::EINVAL));
        }
    }
    for chain in chains {
        guest.hiprio.add(chain);
        guest.hiprio.kick();
        assert_eq!(guest.hiprio.wait_used("the urgent request").1, 0);
    }
    assert_eq!(guest.read(node, handle, 0, 100).unwrap(), b"content");
}

#[test]
fn strange_numbers_are_answered_with_errors() {
    let share = share_with("file", b"content");
    let mut guest = Guest::start(&share.path);
    let node = guest.lookup(ROOT, "file").unwrap();
    let root = u64_at(
        &guest.call(OPENDIR, ROOT, &open_arguments(libc::O_RDONLY), 16).unwrap(),
        0,
    );
    assert_eq!(guest.read(node, 0xdead, 0, 100), Err(libc::EBADF));
    assert_eq!(guest.read(0xdead, 0, 0, 100), Err(libc::EBADF));
    assert!(
        guest
            .call(READDIRPLUS, ROOT, &transfer_arguments(root, u64::MAX, u32::MAX), 4096)
            .is_err()
    );
    assert!(guest.call(SETATTR, node, &[0xff; 88], 104).is_err());
    assert_eq!(guest.call(4711, node, &[0xff; 88], 104), Err(libc::ENOSYS));
    let mut arguments = [u32::MAX.to_le_bytes(), [0; 4]].concat();
    arguments.extend(b"user.none\0");
    assert!(guest.call(GETXATTR, node, &arguments, 64).is_err());
}

#[test]
fn a_reset_forgets_everything_and_leaves_guest_memory_alone() {
    let share = share_with("file", &[7; 100_000]);
    let mut guest = Guest::start(&share.path);
    for round in 0..10 {
        let node = guest.lookup(ROOT, "file").unwrap();
        let handle = guest.open(node, libc::O_RDONLY).unwrap();
        for _ in 0..8 {
            guest.begin(READ, node, &transfer_arguments(handle, 0, 100_000), 100_000);
        }
        guest.device.reset();
        let index = guest.requests.used_index();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(guest.requests.used_index(), index);
        // With and without event index.
        guest.activate(if round % 2 == 0 { 0 } else { 1 << 29 });
        assert_eq!(guest.call(GETATTR, node, &[0; 16], 104), Err(libc::EBADF));
        guest.mount();
    }
}

/// Looks a name up; gives its node and for how many seconds name and attributes are valid.
fn validity(guest: &mut Guest, parent: u64, name: &str) -> (u64, u64, u64) {
    let answer = guest.call(LOOKUP, parent, format!("{name}\0").as_bytes(), 128).unwrap();
    (u64_at(&answer, 0), u64_at(&answer, 16), u64_at(&answer, 24))
}

#[test]
fn what_others_may_change_is_not_believed_for_long() {
    let share = TempDir::new();
    for folder in [
        "container/rootfs/etc",
        "container/ready-rootfs/etc",
        "@volumes/1/rootfs",
    ] {
        fs::create_dir_all(share.path.join(folder)).unwrap();
    }
    let mut guest = Guest::start(&share.path);
    let (container, name, attributes) = validity(&mut guest, ROOT, "container");
    assert_eq!((name, attributes), (0, 1));
    assert_eq!(guest.lookup(ROOT, "absent"), Err(libc::ENOENT));

    let (own, name, attributes) = validity(&mut guest, container, "rootfs");
    assert_eq!((name, attributes), (3600, 3600));
    let (etc, name, _) = validity(&mut guest, own, "etc");
    assert_eq!((validity(&mut guest, etc, "absent"), name), ((0, 3600, 0), 3600));
    let made = guest
        .call(MKDIR, etc, &[&[0xed, 1, 0, 0, 0, 0, 0, 0][..], b"made\0"].concat(), 128)
        .unwrap();
    assert_eq!(u64_at(&made, 16), 3600);
    let attributes = guest.call(GETATTR, etc, &[0; 16], 104).unwrap();
    assert_eq!(u64_at(&attributes, 0), 3600);

    let volumes = guest.lookup(ROOT, "@volumes").unwrap();
    for (folder, path) in [(container, ["ready-rootfs", "etc"]), (volumes, ["1", "rootfs"])] {
        let (above, name, attributes) = validity(&mut guest, folder, path[0]);
        assert_eq!((name, attributes), (1, 1));
        // A folder of that name elsewhere is nothing special.
        let (node, name, _) = validity(&mut guest, above, path[1]);
        assert_eq!(name, 1);
        assert_eq!(guest.lookup(node, "absent"), Err(libc::ENOENT));
        let attributes = guest.call(GETATTR, node, &[0; 16], 104).unwrap();
        assert_eq!(u64_at(&attributes, 0), 1);
    }
}

/// `FUSE_ATTR_OPEN_LATE`, of this project's guest kernel.
const OPEN_LATE: u32 = 1 << 31;
const FOPEN_NOFLUSH: u32 = 1 << 5;

#[test]
fn files_of_root_file_systems_are_opened_and_closed_without_asking() {
    let share = TempDir::new();
    let places = [
        ("container/rootfs", OPEN_LATE, FOPEN_NOFLUSH),
        ("container/ready-rootfs", OPEN_LATE, 0),
        ("@volumes/1", 0, 0),
    ];
    let mut guest = Guest::start(&share.path);
    for (folder, late, quiet) in places {
        fs::create_dir_all(share.path.join(folder)).unwrap();
        fs::write(share.path.join(folder).join("file"), "content").unwrap();
        let node = folder
            .split('/')
            .fold(ROOT, |above, name| guest.lookup(above, name).unwrap());
        fs::create_dir(share.path.join(folder).join("folder")).unwrap();
        fs::write(share.path.join(folder).join("foreign"), "").unwrap();
        chown(share.path.join(folder).join("foreign"), Some(65_534), None).unwrap();
        for name in ["folder", "foreign"] {
            let found = guest.call(LOOKUP, node, format!("{name}\0").as_bytes(), 128).unwrap();
            assert_eq!(u32_at(&found, 124) & OPEN_LATE, 0, "{folder}/{name}");
        }
        let file = guest.call(LOOKUP, node, b"file\0", 128).unwrap();
        assert_eq!(u32_at(&file, 124) & OPEN_LATE, late, "{folder}");
        let opened = guest
            .call(OPEN, u64_at(&file, 0), &open_arguments(libc::O_RDWR), 16)
            .unwrap();
        assert_eq!(u32_at(&opened, 8) & FOPEN_NOFLUSH, quiet, "{folder}");
        let arguments = create_arguments(libc::O_RDWR, 0o100644, 0, "made");
        let made = guest.call(CREATE, node, &arguments, 144).unwrap();
        assert_eq!(u32_at(&made, 124) & OPEN_LATE, late, "{folder}");
        assert_eq!(u32_at(&made, 136) & FOPEN_NOFLUSH, quiet, "{folder}");
    }
}
