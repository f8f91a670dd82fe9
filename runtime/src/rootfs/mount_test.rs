use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::*;
use crate::identity::Shift;

/// A root filesystem whose links lead out of it.
fn image() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("etc/inner")).unwrap();
    symlink("/etc", root.path().join("absolute")).unwrap();
    symlink("../../../../etc", root.path().join("upwards")).unwrap();
    root
}

fn found(root: &Path, target: &str) -> PathBuf {
    let place = inside(root, target).unwrap();
    std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).unwrap()
}

#[test]
fn links_of_an_image_lead_nowhere_but_into_it() {
    let image = image();
    let root = image.path().canonicalize().unwrap();
    for target in ["absolute/inner", "/upwards/inner", "etc/inner"] {
        assert_eq!(found(&root, target), root.join("etc/inner"), "{target}");
    }
    assert_eq!(found(&root, ""), root);
    for target in ["../etc", "/etc/../.."] {
        let error = inside(&root, target).unwrap_err().to_string();
        assert!(error.contains("leaves the root filesystem"), "{error}");
    }
    let error = inside(&root, "absolute/missing").unwrap_err().to_string();
    assert!(error.contains("absolute/missing"), "{error}");
}

/// Runs what mounts, on a thread with which the mounts go.
fn apart_from_all(work: impl FnOnce() + Send) {
    assert!(nix::unistd::geteuid().is_root(), "mounting needs root");
    let enter = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        work();
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap());
}

fn entry(fstype: &str, source: &Path, target: &str, options: &[String]) -> RootfsMount {
    RootfsMount {
        fstype: fstype.into(),
        source: source.to_str().unwrap().into(),
        target: target.into(),
        options: options.to_vec(),
    }
}

#[test]
fn mounts_go_where_their_targets_lead_and_all_go_with_the_first() {
    let (image, source) = (image(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("file"), "").unwrap();
    let root = tempfile::tempdir().unwrap();
    apart_from_all(|| {
        let mut undo = Undo::default();
        let mut put = |entry| mount_entry(&entry, root.path(), None, &mut undo).unwrap();
        put(entry("bind", image.path(), "", &[]));
        put(entry("bind", source.path(), "absolute", &[]));
        assert!(root.path().join("etc/file").exists());
        put(entry("tmpfs", "tmpfs".as_ref(), "upwards", &[]));
        assert!(!root.path().join("etc/file").exists());
        undo.run().unwrap();
        assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
    });
    assert!(image.path().join("etc/inner").exists());
}

/// Needs file systems that know maps.
#[test]
fn layers_of_which_it_was_tried_are_mounted_with_the_map() {
    let (layers, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lines = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
    let shift = Shift::of(&json!({ "uidMappings": lines, "gidMappings": lines })).unwrap();
    let map = shift.unwrap().then(None).unwrap();
    apart_from_all(|| {
        mount(Some("t"), layers.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        for folder in ["lower", "own/fs", "own/work"] {
            std::fs::create_dir_all(layers.path().join(folder)).unwrap();
        }
        std::fs::write(layers.path().join("lower/file"), "").unwrap();
        let options = [("lowerdir", "lower"), ("upperdir", "own/fs"), ("workdir", "own/work")];
        let options = options.map(|(option, folder)| format!("{option}={}", layers.path().join(folder).display()));
        let overlay = entry("overlay", "overlay".as_ref(), "", &options);
        let mut undo = Undo::default();
        if let Err(error) = try_map_entry(&overlay, &map) {
            eprintln!("not run: this machine cannot map owners: {error}");
            return;
        }
        mount_entry(&overlay, root.path(), Some(&map), &mut undo).unwrap();
        assert_eq!(std::fs::metadata(root.path().join("file")).unwrap().uid(), 100_000);
        undo.run().unwrap();
    });
}

#[test]
fn nodes_in_an_image_lead_to_no_device_of_the_host() {
    let (image, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    apart_from_all(|| {
        use nix::sys::stat::{SFlag, makedev, mknod};
        let mut undo = Undo::default();
        mount(Some("t"), image.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mknod(&image.path().join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
        std::fs::File::open(image.path().join("null")).unwrap();
        mount_entry(&entry("bind", image.path(), "", &[]), root.path(), None, &mut undo).unwrap();
        let refused = std::fs::File::open(root.path().join("null")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EACCES));
        undo.run().unwrap();
    });
}
