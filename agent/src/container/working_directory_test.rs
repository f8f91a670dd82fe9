use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// A root with a few links, and what lies beside it.
fn image(name: &str) -> PathBuf {
    let base = std::env::temp_dir().join(format!("working-directory-test-{name}-{}", std::process::id()));
    let root = base.join("root");
    std::fs::create_dir_all(root.join("real")).unwrap();
    std::fs::create_dir_all(base.join("outside")).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    symlink("/real", root.join("absolute")).unwrap();
    symlink("../../../../real", root.join("up")).unwrap();
    symlink(base.join("outside"), root.join("out")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    symlink("/proc/self/fd", root.join("magic")).unwrap();
    base
}

#[test]
fn missing_folders_are_made_where_links_of_the_image_lead() {
    let base = image("made");
    let root = base.join("root");
    for (path, place) in [
        ("/", "/"),
        ("/real", "real"),
        ("/new/deep/er", "new/deep/er"),
        ("/absolute/a/b", "real/a/b"),
        ("/up/c", "real/c"),
        ("/../../above", "above"),
        ("/x/../beside", "beside"),
        ("/real//twice/./", "real/twice"),
    ] {
        let folder = make(&root, Path::new(path)).unwrap();
        let expected = root.join(place.trim_start_matches('/')).metadata().unwrap();
        let status = nix::sys::stat::fstat(folder).unwrap();
        assert_eq!(status.st_ino, expected.ino(), "{path}");
    }
    assert!(root.join("x").is_dir(), "as mkdir -p makes what is left again");
    make(&root, Path::new("/new/deep/er")).unwrap();
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn nothing_is_made_outside_of_the_root_or_of_what_is_no_folder() {
    let base = image("refused");
    let root = base.join("root");
    let refused = |path: &str| make(&root, Path::new(path)).unwrap_err();
    for path in ["/out/x", "/out", "/dangling/x", "/dangling"] {
        assert_eq!(refused(path), Errno::EEXIST, "{path}");
    }
    assert_eq!(refused("/file"), Errno::ENOTDIR);
    assert_eq!(refused("/file/x"), Errno::ENOTDIR);
    assert_eq!(base.join("outside").read_dir().unwrap().count(), 0);
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn descriptors_of_the_process_lead_nowhere() {
    let base = image("descriptors");
    let outside = open(&base.join("outside"), FOLDER, Mode::empty()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&outside);
    let path = format!("/proc/self/fd/{number}/x");
    assert_eq!(make(Path::new("/"), Path::new(&path)).unwrap_err(), Errno::ELOOP);
    assert_eq!(base.join("outside").read_dir().unwrap().count(), 0);
    std::fs::remove_dir_all(base).unwrap();
}

/// On a thread of its own, whose umask, directory and ids for files are left alone elsewhere; does nothing for a user.
#[test]
fn what_is_made_is_roots_whatever_the_umask() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let base = image("owner");
    let root = base.join("root");
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        umask(Mode::from_bits_truncate(0o077));
        setfsgid(Gid::from_raw(8));
        setfsuid(Uid::from_raw(7));
        as_root(|| make(&root, Path::new("/a/b"))).unwrap().unwrap();
        for path in ["a", "a/b"] {
            let made = root.join(path).metadata().unwrap();
            assert_eq!((made.uid(), made.gid()), (0, 0));
            assert_eq!(made.permissions().mode() & 0o7777, 0o755);
        }
        assert_eq!(umask(Mode::empty()), Mode::from_bits_truncate(0o077));
        assert_eq!(setfsuid(Uid::from_raw(0)), Uid::from_raw(7));
    })
    .join()
    .unwrap();
    std::fs::remove_dir_all(base).unwrap();
}
