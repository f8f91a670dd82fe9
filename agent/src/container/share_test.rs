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
