use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// What becomes of mounts over a root file system with a few links.
fn prepared(mounts: Value) -> Result<Vec<String>, String> {
    let place = |mount: &Mount| mount.destination().display().to_string();
    Ok(prepared_mounts(mounts)?.iter().map(place).collect())
}

fn prepared_mounts(mounts: Value) -> Result<Vec<Mount>, String> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let rootfs = std::env::temp_dir().join(format!("mounts-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(rootfs.join("run")).unwrap();
    std::fs::create_dir_all(rootfs.join("var/lib/deep")).unwrap();
    for (folder, mode) in [
        ("run", 0o711),
        ("var", 0o755),
        ("var/lib", 0o2750),
        ("var/lib/deep", 0o700),
    ] {
        std::fs::set_permissions(rootfs.join(folder), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("/run", rootfs.join("var/run")).unwrap();
    symlink("/outside", rootfs.join("dangling")).unwrap();
    symlink("../../../../etc", rootfs.join("up")).unwrap();
    symlink("proc", rootfs.join("p")).unwrap();
    symlink("loop", rootfs.join("loop")).unwrap();
    symlink("/elsewhere", rootfs.join("run/hidden")).unwrap();
    let mut spec: Spec = serde_json::from_value(json!({ "ociVersion": "1.2.0", "mounts": mounts })).unwrap();
    let result = prepare(&mut spec, &rootfs);
    std::fs::remove_dir_all(rootfs).unwrap();
    result.map(|_| spec.mounts().clone().unwrap())
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
            { "destination": "/s", "type": "tmpfs", "source": "x", "options": ["nosymfollow", "runbindable", "mode=1777", "size=1m"] },
            { "destination": "/b", "type": "bind", "source": "/x", "options": ["rbind", "rslave"] },
            { "destination": "/c", "type": "tmpfs", "source": "x", "options": ["mode=1777", "rw", "ro", "tmpcopyup", "size=1m"] },
            { "destination": "/dev", "type": "tmpfs", "source": "x", "options": ["ro"] },
        ],
        "root": { "path": "/x", "readonly": true },
        "linux": { "readonlyPaths": ["/proc/sys"] },
    }))
    .unwrap();
    let (unfinished, originals) = prepare(&mut spec, Path::new("/")).unwrap();
    assert!(originals.is_empty());
    let expected = [
        ("/s", Change::Propagation(MsFlags::MS_UNBINDABLE)),
        ("/b", Change::Propagation(MsFlags::MS_SLAVE | MsFlags::MS_REC)),
        ("/c", Change::ReadOnly),
        ("/dev", Change::ReadOnly),
        ("/", Change::ReadOnly),
        ("/proc/sys", Change::ReadOnlyPath),
        ("/s", Change::NoLinks),
    ];
    assert_eq!(*spec.linux().as_ref().unwrap().readonly_paths(), None);
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(false));
    assert_eq!(
        unfinished.0,
        expected.map(|(place, change)| (PathBuf::from(place), change))
    );
    let options = |number: usize| spec.mounts().as_ref().unwrap()[number].options().clone().unwrap();
    assert_eq!(options(3), ["runbindable", "mode=1777", "size=1m"]);
    assert_eq!(options(5), ["mode=1777", "size=1m"]);
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

#[test]
fn a_tmpfs_has_the_mode_of_the_folder_that_it_hides() {
    let volume = std::env::temp_dir().join(format!("mounts-test-modes-{}", std::process::id()));
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    std::fs::set_permissions(volume.join("inner"), std::fs::Permissions::from_mode(0o1730)).unwrap();
    let bind = json!({ "destination": "/m", "type": "bind", "source": volume, "options": ["rbind"] });
    let with = |destination: &str, options: &[&str]| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options });
    let cases = [
        (json!([tmpfs("/run")]), vec!["mode=711"]),
        (json!([tmpfs("/var/run")]), vec!["mode=711"]),
        (json!([with("/var/lib", &["nosuid"])]), vec!["mode=2750", "nosuid"]),
        (json!([with("/run", &["size=1m", "mode=5"])]), vec!["size=1m", "mode=5"]),
        (json!([tmpfs("/not/there")]), vec![]),
        (json!([tmpfs("/dangling")]), vec![]),
        (json!([tmpfs("/var"), tmpfs("/var/lib")]), vec![]),
        (json!([bind, tmpfs("/m/inner")]), vec!["mode=1730"]),
        (json!([bind, tmpfs("/m/new")]), vec![]),
        // What is copied up can be seen below.
        (
            json!([with("/var", &["tmpcopyup"]), tmpfs("/var/lib/deep")]),
            vec!["mode=700"],
        ),
        (json!([with("/m", &["tmpcopyup"]), tmpfs("/m/inner")]), vec![]),
        (json!([bind, with("/m/inner", &["tmpcopyup"])]), vec!["mode=1730"]),
    ];
    for (mounts, expected) in &cases {
        let prepared = prepared_mounts(mounts.clone()).unwrap();
        let options = prepared.last().unwrap().options().clone().unwrap_or_default();
        assert_eq!(options, *expected, "{mounts}");
    }
    std::fs::remove_dir_all(volume).unwrap();
}

#[test]
fn the_way_through_a_copy_is_that_through_what_it_hides() {
    let volume = std::env::temp_dir().join(format!("mounts-test-copies-{}", std::process::id()));
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    symlink("/proc", volume.join("inner/l")).unwrap();
    let bind = json!({ "destination": "/m", "type": "bind", "source": volume, "options": ["rbind"] });
    let copied = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
    let places = prepared(json!([tmpfs("/var/lib"), copied("/var"), tmpfs("/var/run/x")]));
    assert_eq!(places.unwrap(), ["/var/lib", "/var", "/run/x"]);
    let error = prepared(json!([bind, copied("/m/inner"), tmpfs("/m/inner/l/sys")])).unwrap_err();
    std::fs::remove_dir_all(volume).unwrap();
    assert!(error.contains("symbolic link in the volume"), "{error}");
}

#[test]
fn options_are_the_file_systems_or_the_mounts() {
    let options = ["nosuid", "ro", "size=1m", "sync", "rprivate", "lazytime"].map(str::to_owned);
    let (of_file_system, of_mount) = split(&options);
    assert_eq!(of_file_system, ["ro", "size=1m", "sync", "lazytime"]);
    assert_eq!(of_mount, ["nosuid", "ro", "rprivate"]);
}

#[test]
fn flags_without_effect_are_no_options_of_a_file_system() {
    let options = ["silent", "loud", "nosuid", "iversion", "noiversion", "mode=1777"];
    for kind in ["tmpfs", "proc", "mqueue"] {
        let mount = json!({ "destination": "/t", "type": kind, "source": kind, "options": options });
        let prepared = prepared_mounts(json!([mount])).unwrap();
        assert_eq!(prepared[0].options().clone().unwrap(), ["nosuid", "mode=1777"]);
    }
}

#[test]
fn what_shows_a_namespace_is_not_mounted_in_the_helpers() {
    let mount =
        |kind: &str| json!({ "destination": "/m", "type": kind, "source": kind, "options": ["sync", "dirsync"] });
    let mounts = json!([mount("proc"), mount("mqueue"), mount("sysfs")]);
    let mut spec: Spec = serde_json::from_value(json!({ "ociVersion": "1.2.0", "mounts": mounts })).unwrap();
    let before = spec.clone();
    mount_here(
        &mut spec,
        &[],
        &Originals::new(),
        Path::new("/no/such/folder"),
        copy_up::copy,
    )
    .unwrap();
    assert_eq!(spec, before);
}

#[test]
fn owners_of_a_tmpfs_are_ids_of_its_container() {
    let mapped = |linux: Value| {
        let spec: Spec = serde_json::from_value(json!({ "ociVersion": "1.2.0", "linux": linux })).unwrap();
        move |option: &str| owned(vec![option.to_owned()], &Outside::of(&spec))
    };
    let plain = mapped(json!({}));
    assert_eq!(plain("uid=5").unwrap(), ["uid=0", "gid=0", "uid=5"]);
    let line = |outside: u32| json!([{ "containerID": 0, "hostID": outside, "size": 10 }]);
    let own = mapped(json!({ "uidMappings": line(1000), "gidMappings": line(2000) }));
    assert_eq!(own("gid=9").unwrap(), ["uid=1000", "gid=2000", "gid=2009"]);
    assert_eq!(own("uid=none").unwrap(), ["uid=1000", "gid=2000", "uid=none"]);
    assert_eq!(own("uid=10").unwrap_err().raw_os_error(), Some(nix::libc::EINVAL));
}

/// In a mount namespace of its own; does nothing for a user who may not have one.
#[test]
fn a_copy_is_made_before_the_container_and_bound_there() {
    let base = std::env::temp_dir().join(format!("mounts-test-made-{}", std::process::id()));
    let (rootfs, directory) = (base.join("rootfs"), base.join("state"));
    std::fs::create_dir_all(rootfs.join("etc/sub")).unwrap();
    std::fs::write(rootfs.join("etc/sub/file"), "content").unwrap();
    std::fs::set_permissions(rootfs.join("etc"), std::fs::Permissions::from_mode(0o711)).unwrap();
    let options = ["tmpcopyup", "ro", "nosuid", "gid=7"];
    let mut spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options },
        ],
    }))
    .unwrap();
    std::thread::spawn(move || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let apart = nix::sched::unshare(CloneFlags::CLONE_NEWNS);
        if apart
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
            .is_err()
        {
            return;
        }
        let (unfinished, originals) = prepare(&mut spec, &rootfs).unwrap();
        mount_here(&mut spec, &[], &originals, &directory, copy_up::copy).unwrap();
        assert_eq!(unfinished.0, [(PathBuf::from("/etc"), Change::ReadOnly)]);
        let made = &spec.mounts().as_ref().unwrap()[1];
        let source = made.source().clone().unwrap();
        assert_eq!(
            (made.typ().as_deref(), source.clone()),
            (Some("bind"), directory.join("mount1"))
        );
        assert_eq!(made.options().as_ref().unwrap(), &["nosuid", "bind"]);
        assert_eq!(std::fs::read_to_string(source.join("sub/file")).unwrap(), "content");
        let metadata = source.metadata().unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
            (0o711, 0, 7)
        );
    })
    .join()
    .unwrap();
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn a_file_system_needs_no_source() {
    let types = ["tmpfs", "proc", "mqueue", "bind"];
    let mounts = types.map(|typ| json!({ "destination": format!("/{typ}"), "type": typ }));
    let sources: Vec<_> = prepared_mounts(json!(mounts))
        .unwrap()
        .iter()
        .map(|mount| mount.source().clone())
        .collect();
    let empty = Some(PathBuf::new());
    assert_eq!(sources, [empty.clone(), empty.clone(), empty, None]);
}
