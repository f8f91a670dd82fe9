use super::*;

#[test]
fn numbers_of_the_host_become_parameters() {
    let sys = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(sys.path().join("vm")).unwrap();
    std::fs::create_dir_all(sys.path().join("fs/inotify")).unwrap();
    std::fs::write(sys.path().join("vm/max_map_count"), "262144\n").unwrap();
    std::fs::write(sys.path().join("fs/inotify/max_user_watches"), "524288\n").unwrap();
    let expected = "sysctl.fs.inotify.max_user_watches=524288 sysctl.vm.max_map_count=262144";
    for no_number_or_strict in ["0 quiet init=/x\n", "2\n"] {
        std::fs::write(sys.path().join("vm/overcommit_memory"), no_number_or_strict).unwrap();
        assert_eq!(parameters(sys.path()), expected);
    }
}
