use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn only_unix_addresses_have_a_path() {
    assert_eq!(path_of("unix:///run/x").unwrap(), PathBuf::from("/run/x"));
    for bad in ["/run/x", "unix://run/x", "vsock://2:1", ""] {
        assert!(path_of(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_new_socket_is_private_and_alive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s/abc");
    let listener = bind(&path).unwrap().unwrap();
    assert!(is_alive(&path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(listener);
    assert!(!is_alive(&path));
}

#[test]
fn a_living_server_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abc");
    let _listener = bind(&path).unwrap().unwrap();
    assert!(bind(&path).unwrap().is_none());
    assert!(is_alive(&path));
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abc");
    drop(bind(&path).unwrap().unwrap());
    assert!(path.exists());
    let _listener = bind(&path).unwrap().unwrap();
    assert!(is_alive(&path));
}

#[test]
fn a_missing_socket_is_dead_and_removing_it_is_fine() {
    let path = Path::new("/nonexistent/socket");
    assert!(!is_alive(path));
    remove(path);
}
