use std::path::Path;

use super::{cpus_in, host_cpus, online};

#[test]
fn lists_of_cpus_are_counted() {
    for (list, count) in [
        ("0", Some(1)),
        ("0-3,6", Some(5)),
        ("", None),
        ("3-1", None),
        ("a", None),
        ("0-18446744073709551615", None),
    ] {
        assert_eq!(cpus_in(list), count, "{list}");
    }
}

#[test]
fn the_hosts_cpus_are_those_that_are_online() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("online");
    std::fs::write(&file, "0-1,4\n").unwrap();
    assert_eq!(online(&file), Some(3));
    assert_eq!(online(Path::new("/nonexistent")), None);
    assert!(host_cpus() >= 1);
}
