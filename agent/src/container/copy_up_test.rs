use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// Two folders, gone at the end.
struct Folders(std::path::PathBuf);

impl Folders {
    fn new(name: &str) -> Folders {
        let base = std::env::temp_dir().join(format!("copy-up-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(base.join("rootfs/etc")).unwrap();
        std::fs::create_dir_all(base.join("new")).unwrap();
        Folders(base)
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.0.join(path)
    }

    fn copy(&self, place: &str) -> io::Result<()> {
        match open_below(&self.at("rootfs"), place.as_ref())? {
            Some(hidden) => copy(&hidden, &self.at("new")),
            None => Ok(()),
        }
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn files_folders_and_links_come_with_owners_and_modes() {
    let folders = Folders::new("all");
    std::fs::create_dir_all(folders.at("rootfs/etc/sub/deeper")).unwrap();
    std::fs::write(folders.at("rootfs/etc/sub/file"), "content").unwrap();
    std::fs::set_permissions(
        folders.at("rootfs/etc/sub/file"),
        std::fs::Permissions::from_mode(0o4711),
    )
    .unwrap();
    std::fs::set_permissions(folders.at("rootfs/etc/sub"), std::fs::Permissions::from_mode(0o1750)).unwrap();
    symlink("/outside", folders.at("rootfs/etc/link")).unwrap();
    nix::unistd::mkfifo(&folders.at("rootfs/etc/fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(folders.at("rootfs/etc/sub/file"), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(
            folders.at("rootfs/etc/sub/file"),
            std::fs::Permissions::from_mode(0o4711),
        )
        .unwrap();
    }
    folders.copy("/etc").unwrap();
    assert_eq!(std::fs::read_to_string(folders.at("new/sub/file")).unwrap(), "content");
    let file = std::fs::metadata(folders.at("new/sub/file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o4711);
    assert!(!is_root || (file.uid(), file.gid()) == (7, 8));
    assert_eq!(
        std::fs::metadata(folders.at("new/sub")).unwrap().mode() & 0o7777,
        0o1750
    );
    assert!(folders.at("new/sub/deeper").is_dir());
    assert_eq!(
        std::fs::read_link(folders.at("new/link")).unwrap(),
        Path::new("/outside")
    );
    let kind = |name: &str| std::fs::symlink_metadata(folders.at(name)).unwrap().mode() & SFlag::S_IFMT.bits();
    assert_eq!(kind("new/fifo"), SFlag::S_IFIFO.bits());
}

#[test]
fn nothing_is_copied_from_outside_the_root_file_system() {
    let folders = Folders::new("outside");
    std::fs::create_dir_all(folders.at("secret")).unwrap();
    std::fs::write(folders.at("secret/key"), "x").unwrap();
    symlink(folders.at("secret"), folders.at("rootfs/absolute")).unwrap();
    symlink("../secret", folders.at("rootfs/up")).unwrap();
    std::fs::write(folders.at("rootfs/file"), "x").unwrap();
    for place in ["/absolute", "/up", "/missing", "/file"] {
        folders.copy(place).unwrap();
        assert_eq!(std::fs::read_dir(folders.at("new")).unwrap().count(), 0, "{place}");
    }
}

#[test]
fn a_tree_that_is_too_deep_is_refused() {
    let folders = Folders::new("deep");
    std::fs::create_dir_all(folders.at(&format!("rootfs/etc/{}", "d/".repeat(130)))).unwrap();
    let error = folders.copy("/etc").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP));
}
