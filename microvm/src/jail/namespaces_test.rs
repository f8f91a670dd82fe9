use std::os::fd::AsRawFd;

use caps::{CapSet, Capability};

use super::*;

#[test]
fn a_map_has_one_line_for_each_extent() {
    let extents = [
        IdExtent {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        },
        IdExtent {
            inside: 70_000,
            outside: 165_536,
            count: 1,
        },
    ];
    assert_eq!(IdExtent::text(&extents), "0 100000 65536\n70000 165536 1\n");
}

/// Runs the whole entry in a child; needs root on the host, as the vmm does.
#[test]
fn a_jailed_process_sees_only_the_share() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let share = std::env::temp_dir().join(format!("bulkhead-jail-{}", std::process::id()));
    std::fs::create_dir_all(&share).unwrap();
    let (near, far) = Channel::pair().unwrap();
    // SAFETY: the child only makes system calls and ends without returning to the test harness.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(near);
            let status = jailed_child(&share, &far);
            // SAFETY: as above.
            unsafe { nix::libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            drop(far);
            let first = near.receive::<Reply>();
            waitpid(child, None).unwrap();
            // The inner process still enters the share when the outer one has ended.
            let second = near.receive::<Reply>();
            std::fs::remove_dir_all(&share).unwrap();
            assert!(matches!(first, Ok((Reply::Jailed { pid }, _)) if pid > 1), "{first:?}");
            assert!(matches!(second, Ok((Reply::Done, _))), "{second:?}");
        }
    }
}

fn opens_by_number(descriptors: &OwnedFd) -> bool {
    let Ok(file) = open("/only", OFlag::O_PATH, Mode::empty()) else {
        return false;
    };
    let number = file.as_raw_fd().to_string();
    openat(descriptors, number.as_str(), OFlag::O_RDONLY, Mode::empty()).is_ok()
}

fn jailed_child(share: &std::path::Path, far: &Channel) -> i32 {
    let prepare = || -> Result<OwnedFd, Errno> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        mount(Some("share"), share, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        std::fs::write(share.join("only"), "x").map_err(|_| Errno::EIO)?;
        open(share, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
    };
    let Ok(root) = prepare() else { return 1 };
    let spec = JailSpec {
        ids: vec![IdExtent {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        }],
    };
    let entered = match enter(&spec, &root, None, far) {
        Ok(entered) => entered,
        Err(error) => {
            let _ = far.send(
                &Reply::Failed {
                    message: error.to_string(),
                },
                &[],
            );
            return 2;
        }
    };
    let names: Vec<_> = std::fs::read_dir("/")
        .map(|entries| entries.flatten().collect())
        .unwrap_or_default();
    let checks = [
        (
            "one file in the root",
            names.len() == 1 && names[0].file_name() == "only",
        ),
        ("pid 1", nix::unistd::getpid() == Pid::from_raw(1)),
        ("user 0", nix::unistd::getuid().is_root()),
        (
            "no mounts",
            mount(Some("t"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>).is_err(),
        ),
        (
            "nothing new in the root",
            std::fs::create_dir("/new").is_err() && std::fs::remove_file("/only").is_err(),
        ),
        ("capabilities as anybody", {
            let any = nix::unistd::Uid::from_raw(1000);
            let makes = nix::unistd::seteuid(any).is_ok()
                && caps::has_cap(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE).unwrap_or(false);
            nix::unistd::seteuid(nix::unistd::Uid::from_raw(0)).is_ok() && makes
        }),
        ("files by number", opens_by_number(&entered.descriptors)),
        ("no way up", {
            let opens = |path| openat(&entered.descriptors, path, OFlag::O_PATH, Mode::empty()).is_ok();
            !opens("../../../etc") && !opens("../../sys/kernel") && !opens("../status")
        }),
    ];
    let reply = match checks.iter().find(|check| !check.1) {
        None => Reply::Done,
        Some((what, _)) => Reply::Failed {
            message: (*what).to_owned(),
        },
    };
    i32::from(far.send(&reply, &[]).is_err())
}
