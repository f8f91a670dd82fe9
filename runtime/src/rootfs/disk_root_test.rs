use super::*;

fn mount(fstype: &str, source: &str, options: &[&str]) -> RootfsMount {
    RootfsMount {
        fstype: fstype.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn an_image_file_is_given_to_the_guest_with_the_options_of_its_file_system() {
    let file = std::env::current_exe().unwrap();
    let file = file.to_str().unwrap();
    let root = on_disk(&[mount("ext4", file, &["rw", "loop,noatime,data=ordered"])])
        .unwrap()
        .unwrap();
    assert!(root.options.flags == MsFlags::MS_NOATIME && root.options.data == ["data=ordered"]);
    assert!(!root.is_read_only());
    let read_only = |fstype, options: &[&str]| {
        on_disk(&[mount(fstype, file, options)])
            .unwrap()
            .unwrap()
            .is_read_only()
    };
    assert!(
        read_only("ext4", &["loop", "rw", "ro"])
            && !read_only("ext4", &["loop", "ro", "rw"])
            && read_only("erofs", &["loop"])
    );
}

#[test]
fn everything_else_is_mounted_on_the_host() {
    assert_eq!(on_disk(&[]).unwrap(), None);
    assert_eq!(on_disk(&[mount("overlay", "overlay", &["lowerdir=/a"])]).unwrap(), None);
    assert_eq!(on_disk(&[mount("bind", "/", &["rbind"])]).unwrap(), None);
    let layers = [mount("erofs", "/a", &["loop"]), mount("overlay", "overlay", &[])];
    assert_eq!(on_disk(&layers).unwrap(), None);
}

#[test]
fn what_the_guest_cannot_mount_is_refused_by_name() {
    let error = |mount: RootfsMount| on_disk(&[mount]).unwrap_err().to_string();
    let missing = error(mount("ext4", "/no/image", &["loop"]));
    assert!(missing.contains("/no/image"), "{missing}");
    let folder = error(mount("ext4", "/tmp", &["loop"]));
    assert!(folder.contains("/tmp") && folder.contains("image file"), "{folder}");
    let file = std::env::current_exe().unwrap();
    let unknown = error(mount("btrfs", file.to_str().unwrap(), &["loop"]));
    assert!(unknown.contains("btrfs") && unknown.contains("ext4"), "{unknown}");
}
