use std::path::Path;

use nix::mount::MsFlags;

use super::mount::shorten;
use super::options::MountOptions;

fn parse(options: &[&str]) -> MountOptions {
    MountOptions::parse(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn flags_and_data_are_told_apart() {
    let parsed = parse(&[
        "ro",
        "nosuid,nodev",
        "rw",
        "index=off",
        "lowerdir=/a\\,b:/c,upperdir=/u",
        "defaults",
        "x-y=1",
    ]);
    assert_eq!(parsed.flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    assert_eq!(parsed.data, ["index=off", "lowerdir=/a\\,b:/c", "upperdir=/u"]);
    assert_eq!(
        parse(&["rbind", "ro"]).flags,
        MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
    );
}

#[test]
fn options_that_need_a_helper_are_refused() {
    for option in ["loop", "uidmap=0:1:2"] {
        let error = MountOptions::parse(&[option.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(option), "{error}");
    }
}

#[test]
fn many_layers_are_named_from_their_common_folder() {
    let layers: Vec<String> = (1..=120)
        .map(|n| format!("/var/lib/containerd/snapshotter.overlayfs/snapshots/{n}/fs"))
        .collect();
    let data = [
        "index=off".to_owned(),
        format!("lowerdir={}", layers.join(":")),
        "upperdir=/u".to_owned(),
    ];
    let (folder, short) = shorten(&data).unwrap();
    assert_eq!(folder, Path::new("/var/lib/containerd/snapshotter.overlayfs/snapshots"));
    assert!(short.starts_with("index=off,lowerdir=1/fs:2/fs:"), "{short}");
    assert!(short.ends_with("120/fs,upperdir=/u"), "{short}");
}

#[test]
fn layers_that_cannot_be_shortened_are_left_to_fail() {
    let one = |lower: &str| shorten(&[format!("lowerdir={lower}")]);
    assert_eq!(one("/a/b").unwrap().1, "lowerdir=b");
    assert_eq!(one("/a/b:/a/b/c").unwrap().1, "lowerdir=b:b/c");
    assert!(one("/a\\:b:/c").is_none());
    assert!(one("/a/b::/c").is_none());
    assert!(one(&format!("/a/{}", "x".repeat(5000))).is_none());
}
