use super::{ContainerId, validate_exec_id, validate_namespace};
use crate::error::ErrorKind;

#[test]
fn ordinary_ids_pass() {
    for id in ["a", "web-1", "A_b.c", "..x", &"f".repeat(64), &"x".repeat(200)] {
        assert_eq!(ContainerId::try_from(id).unwrap().as_str(), id);
    }
    validate_namespace("k8s.io").unwrap();
    validate_exec_id("exec-0").unwrap();
}

#[test]
fn ids_that_could_leave_their_folder_are_refused() {
    for id in [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "a\0b",
        "a b",
        "ä",
        "a\n",
        &"x".repeat(201),
    ] {
        let error = ContainerId::try_from(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{id:?}");
    }
}

#[test]
fn a_long_id_is_not_repeated_in_full() {
    let error = ContainerId::try_from("y".repeat(10_000).as_str())
        .unwrap_err()
        .to_string();
    assert!(error.len() < 200, "{error}");
    assert!(error.contains("10000 bytes"), "{error}");
}
