use super::*;

const LINES: &[u8] = b"20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
    30 20 0:2 / /run/b/ns/p1/share rw shared:1 - tmpfs bulkhead rw\n\
    31 30 0:3 / /run/b/ns/p1/share/a\\040b rw - overlay overlay rw\n\
    32 20 0:4 / /run/b/ns/p10 rw - tmpfs x rw\n";

#[test]
fn mounts_are_found_innermost_first() {
    let found = points_below(parse(LINES), Path::new("/run/b/ns/p1"));
    let expected = ["/run/b/ns/p1/share/a b", "/run/b/ns/p1/share"].map(PathBuf::from);
    assert_eq!(found, expected);
}

#[test]
fn a_line_is_taken_apart() {
    let mounts = parse(LINES);
    assert_eq!(mounts.len(), 4);
    assert_eq!((mounts[2].id, mounts[2].parent), (31, 30));
    assert_eq!(mounts[2].root, (b"0:3".to_vec(), b"/".to_vec()));
    assert!(mounts[2].line.ends_with(b"overlay overlay rw"));
}

#[test]
fn names_are_any_bytes() {
    assert_eq!(unescape(b"/a\\134040\\011\\012\\043\xff\\9"), b"/a\\040\t\n#\xff\\9");
    assert_eq!(unescape(b"\\04"), b"\\04");
}

#[test]
fn the_mount_of_a_file_is_in_the_table() {
    let id = id_of(File::open("/proc/self/stat").unwrap()).unwrap();
    let mounts = read().unwrap();
    let mount = mounts.iter().find(|mount| mount.id == id).unwrap();
    assert_eq!(mount.point, Path::new("/proc"));
}
