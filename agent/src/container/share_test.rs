use super::*;

#[test]
fn the_innermost_mounts_of_this_container_alone_come_first() {
    let table = "share /share virtiofs rw 0 0\n\
        none /share/c1/rootfs virtiofs rw 0 0\n\
        none /share/c1/rootfs/sub virtiofs rw 0 0\n\
        none /share/c10/rootfs virtiofs rw 0 0\n\
        none /share/c1/mounts/0 virtiofs rw 0 0\n";
    let expected = ["/share/c1/mounts/0", "/share/c1/rootfs/sub", "/share/c1/rootfs"];
    assert_eq!(mounts_below(table, Path::new("/share/c1")), expected.map(PathBuf::from));
    assert!(mounts_below(table, Path::new("/share/c2")).is_empty());
}

#[test]
fn a_container_uses_the_share_by_its_root_or_by_the_source_of_a_mount() {
    let used = |root: &str, source: &str| {
        let spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "root": { "path": root },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/etc/hosts", "type": "bind", "source": source, "options": ["rbind"] },
            ],
        });
        is_used(Path::new("/share/c1"), &serde_json::from_value(spec).unwrap())
    };
    assert!(used("/share/c1/rootfs", "/dev/shm"));
    assert!(used("/dev/vdb", "/share/c1/mounts/0"));
    assert!(!used("/dev/vdb", "/share/c10/mounts/0"));
}
