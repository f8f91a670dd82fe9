use std::os::unix::fs::symlink;

use super::*;

fn source(path: &str, mount: u64) -> Source {
    Source {
        path: path.into(),
        device: 1,
        inode: 2,
        mount,
    }
}

/// Of a source in the mount 21.
fn received(path: &str) -> Received {
    Received {
        source: source(path, 21),
        target: "/nonexistent".into(),
        share: source("/run/share", 40),
        access: Access::Write,
        map: None,
        left_out: Vec::new(),
        shown: BTreeMap::new(),
        leaving: Vec::new(),
    }
}

fn seen(received: &Received, table: &str) -> Vec<(String, u64)> {
    let seen = received.below_source(&mount_table::parse(table.as_bytes()));
    let seen = seen.into_iter();
    seen.map(|(path, mount)| (path.display().to_string(), mount.id))
        .collect()
}

#[test]
fn what_is_mounted_below_the_source_is_seen() {
    let table = "21 21 8:1 / / rw - ext4 /dev/a rw\n\
        22 21 0:30 / /v/a/deep rw - tmpfs covered-by-the-next rw\n\
        23 21 0:31 / /v/a rw - tmpfs t rw\n\
        24 23 0:32 / /v/a/in rw - tmpfs below-the-next rw\n\
        25 23 0:33 / /v/a rw - tmpfs on-top rw\n\
        26 21 0:34 / /v rw - tmpfs covers-the-source rw\n\
        27 26 0:35 / /v/hidden rw - tmpfs t rw\n\
        28 21 0:36 / /value rw - tmpfs elsewhere rw\n";
    let received = received("/v");
    assert_eq!(seen(&received, table), [("a".to_owned(), 25)]);
    let uncovered = table.lines().filter(|line| !line.contains(" /v/a "));
    let uncovered = uncovered.collect::<Vec<_>>().join("\n");
    assert_eq!(seen(&received, &uncovered), [("a/deep".to_owned(), 22)]);
}

#[test]
fn the_shims_own_mounts_are_not_seen() {
    let table = "21 21 8:1 / / rw - ext4 /dev/a rw\n\
        30 21 0:30 / /run rw - tmpfs t rw\n\
        40 30 0:31 / /run/share rw - tmpfs bulkhead rw\n\
        41 40 8:1 / /run/share/volumes/1 rw - ext4 /dev/a rw\n";
    assert_eq!(seen(&received("/"), table), [("run".to_owned(), 30)]);
}

#[test]
fn what_a_plain_bind_has_left_out_stays_out() {
    let left = "22 21 0:30 / /v/old rw - tmpfs t rw\n";
    let mut received = received("/v");
    received.left_out = mount_table::parse(left.as_bytes());
    let table = "22 21 0:30 / /v/old ro - tmpfs with-other-options ro\n\
        23 22 0:31 / /v/old/in rw - tmpfs t rw\n\
        24 21 0:32 / /v/new rw - tmpfs t rw\n\
        25 24 0:33 / /v/new/in rw - tmpfs t rw\n";
    let new = [("new".to_owned(), 24), ("new/in".to_owned(), 25)];
    assert_eq!(seen(&received, table), new);
    // Another one, with the number of one that is gone.
    let table = "22 21 0:34 / /v/old rw - tmpfs t rw\n";
    assert_eq!(seen(&received, table), [("old".to_owned(), 22)]);
}

#[test]
fn no_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    symlink("a", folder.path().join("link")).unwrap();
    symlink("/", folder.path().join("a/out")).unwrap();
    let top = std::fs::File::open(folder.path()).unwrap();
    for found in ["", "a", "a/b"] {
        below(&top, found.as_ref()).unwrap();
    }
    for refused in ["link", "link/b", "a/out", "a/out/etc", "..", "a/../..", "/etc"] {
        assert!(below(&top, refused.as_ref()).is_err(), "{refused}");
    }
}

#[test]
fn a_source_that_was_replaced_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    std::fs::create_dir(&path).unwrap();
    let source = Source::of(&path).unwrap();
    source.open().unwrap();
    std::fs::rename(&path, folder.path().join("old")).unwrap();
    assert!(source.open().is_err());
    std::fs::create_dir(&path).unwrap();
    assert!(source.open().is_err());
    std::fs::remove_dir(&path).unwrap();
    symlink("old", &path).unwrap();
    assert!(source.open().is_err());
}
