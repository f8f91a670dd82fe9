use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

/// What becomes of mounts over a root file system with a few links.
fn prepared(mounts: Value) -> Result<Vec<String>, String> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let rootfs = std::env::temp_dir().join(format!("mounts-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(rootfs.join("run")).unwrap();
    std::fs::create_dir_all(rootfs.join("var")).unwrap();
    symlink("/run", rootfs.join("var/run")).unwrap();
    symlink("/outside", rootfs.join("dangling")).unwrap();
    symlink("../../../../etc", rootfs.join("up")).unwrap();
    symlink("proc", rootfs.join("p")).unwrap();
    symlink("loop", rootfs.join("loop")).unwrap();
    symlink("/elsewhere", rootfs.join("run/hidden")).unwrap();
    let mut spec: Spec = serde_json::from_value(json!({ "ociVersion": "1.2.0", "mounts": mounts })).unwrap();
    let result = prepare(&mut spec, &rootfs);
    std::fs::remove_dir_all(rootfs).unwrap();
    let place = |mount: &Mount| mount.destination().display().to_string();
    result.map(|_| spec.mounts().iter().flatten().map(place).collect())
}

fn tmpfs(destination: &str) -> Value {
    json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" })
}

#[test]
fn places_are_found_through_links_within_the_root() {
    for (destination, place) in [
        ("/plain/folder", "/plain/folder"),
        ("relative", "/relative"),
        ("/dangling/x", "/outside/x"),
        ("/dangling", "/outside"),
        ("/up/passwd", "/etc/passwd"),
        ("/var/run/secrets", "/run/secrets"),
        ("/x/../dotted", "/dotted"),
        ("/../../above", "/above"),
    ] {
        assert_eq!(prepared(json!([tmpfs(destination)])).unwrap(), [place], "{destination}");
    }
    let error = prepared(json!([tmpfs("/loop/x")])).unwrap_err();
    assert!(error.contains("/loop/x") && error.contains("symlinks"), "{error}");
}

#[test]
fn what_lies_in_an_earlier_mount_is_not_looked_up_below_it() {
    let places = prepared(json!([
        tmpfs("/var/run"),
        tmpfs("/run/hidden/x"),
        tmpfs("/var/run/hidden")
    ]));
    assert_eq!(places.unwrap(), ["/run", "/run/hidden/x", "/run/hidden"]);
}

#[test]
fn proc_keeps_its_contents() {
    let bind =
        |destination: &str| json!({ "destination": destination, "type": "bind", "source": "/x", "options": ["rbind"] });
    let proc = |destination: &str| json!({ "destination": destination, "type": "proc", "source": "proc" });
    let sysfs = json!({ "destination": "/proc/x", "type": "sysfs", "source": "sysfs" });
    for fine in [
        proc("/proc"),
        bind("/proc/meminfo"),
        bind("/proc/sys/kernel/ns_last_pid"),
        tmpfs("/processes"),
        sysfs,
    ] {
        prepared(json!([proc("/proc"), fine])).unwrap();
    }
    for (refused, says) in [
        (tmpfs("/proc"), "not of type proc"),
        (bind("/proc"), "not of type proc"),
        (tmpfs("/proc/self"), "inside /proc"),
        (bind("/proc/sys"), "inside /proc"),
        (tmpfs("/p/sys"), "\"/proc/sys\" cannot be mounted"),
        (tmpfs("/proc/meminfo/../self"), "inside /proc"),
    ] {
        for mounts in [json!([refused]), json!([proc("/proc"), refused])] {
            let error = prepared(mounts).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}

#[test]
fn a_bind_mount_has_only_options_that_are_known() {
    let mount = |options: &[&str]| json!([{ "destination": "/m", "type": "bind", "source": "/x", "options": options }]);
    prepared(mount(&["rbind", "rprivate", "ro", "rnosuid"])).unwrap();
    let error = prepared(mount(&["bind", "no-such-option"])).unwrap_err();
    assert!(error.contains("\"/m\"") && error.contains("no-such-option"), "{error}");
    // Others are the kernel's to judge.
    prepared(json!([{ "destination": "/m", "type": "tmpfs", "source": "x", "options": ["size=1m"] }])).unwrap();
}

#[test]
fn what_libcontainer_drops_is_left_to_do() {
    let mut spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "mounts": [
            { "destination": "/plain", "type": "tmpfs", "source": "x", "options": ["nosuid"] },
            { "destination": "/a/hidden", "type": "tmpfs", "source": "x", "options": ["nosymfollow", "shared"] },
            { "destination": "/a", "type": "tmpfs", "source": "x", "options": ["nosymfollow", "symfollow"] },
            { "destination": "/s", "type": "tmpfs", "source": "x", "options": ["nosymfollow", "runbindable", "size=1m"] },
            { "destination": "/b", "type": "bind", "source": "/x", "options": ["rbind", "rslave"] },
            { "destination": "/c", "type": "tmpfs", "source": "x", "options": ["tmpcopyup", "size=1m"] },
            { "destination": "/dev", "type": "tmpfs", "source": "x", "options": ["ro"] },
        ],
        "linux": { "readonlyPaths": ["/proc/sys"] },
    }))
    .unwrap();
    let unfinished = prepare(&mut spec, Path::new("/")).unwrap();
    let expected = [
        ("/c", Change::CopyUp),
        ("/s", Change::Propagation(MsFlags::MS_UNBINDABLE)),
        ("/b", Change::Propagation(MsFlags::MS_SLAVE | MsFlags::MS_REC)),
        ("/dev", Change::ReadOnly),
        ("/proc/sys", Change::ReadOnlyPath),
        ("/s", Change::NoLinks),
    ];
    assert_eq!(*spec.linux().as_ref().unwrap().readonly_paths(), None);
    assert_eq!(
        unfinished.0,
        expected.map(|(place, change)| (PathBuf::from(place), change))
    );
    let options = spec.mounts().as_ref().unwrap()[3].options().clone().unwrap();
    assert_eq!(options, ["runbindable", "size=1m"]);
}

#[test]
fn a_place_is_not_found_through_links_in_a_volume() {
    let volume = std::env::temp_dir().join(format!("mounts-test-volume-{}", std::process::id()));
    std::fs::create_dir_all(volume.join("plain")).unwrap();
    symlink("/proc", volume.join("l")).unwrap();
    let bind = json!({ "destination": "/m", "type": "bind", "source": volume, "options": ["rbind"] });
    let places = prepared(json!([bind, tmpfs("/m/plain/new"), tmpfs("/m/new/x")]));
    let error = prepared(json!([bind, tmpfs("/m/l/sys")])).unwrap_err();
    std::fs::remove_dir_all(volume).unwrap();
    assert_eq!(places.unwrap(), ["/m", "/m/plain/new", "/m/new/x"]);
    assert!(error.contains("symbolic link in the volume at \"/m\""), "{error}");
}
