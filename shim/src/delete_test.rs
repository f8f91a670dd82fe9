use super::*;

#[test]
fn only_the_shim_of_that_pod_is_taken_for_it() {
    let line = b"containerd-shim-bulkhead-v2\0-namespace\0default\0-id\0p1\0-address\0unix:///x\0";
    assert!(serves(line, "p1"));
    assert!(!serves(line, "p2"));
    assert!(!serves(line, "default"));
    assert!(!serves(b"sleep\0-id\0p1\0", "p1"));
    assert!(!serves(b"", "p1"));
    assert!(!serves(b"containerd-shim-bulkhead-v2\0-id", "p1"));
}

#[test]
fn a_pid_that_is_another_process_by_now_is_spared() {
    let bundle = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    std::fs::write(bundle.path().join("shim.pid"), other.id().to_string()).unwrap();
    kill_shim(bundle.path(), "p1");
    assert!(other.try_wait().unwrap().is_none(), "killed a stranger");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn recorded_pids_are_numbers_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("init.pid");
    assert_eq!(read_number(&path), None);
    std::fs::write(&path, "12\n").unwrap();
    assert_eq!(read_number(&path), Some(12));
    std::fs::write(&path, "-1").unwrap();
    assert_eq!(read_number(&path), None);
}
