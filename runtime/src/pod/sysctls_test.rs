use super::*;

#[test]
fn numbers_of_the_host_are_passed_on() {
    let sys = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(sys.path().join("vm")).unwrap();
    std::fs::create_dir_all(sys.path().join("fs/inotify")).unwrap();
    std::fs::write(sys.path().join("vm/max_map_count"), "262144\n").unwrap();
    std::fs::write(sys.path().join("fs/inotify/max_user_watches"), "524288\n").unwrap();
    let [map_count, watches] = [
        ("vm.max_map_count", "262144"),
        ("fs.inotify.max_user_watches", "524288"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for no_number_or_strict in ["0 quiet init=/x\n", "2\n"] {
        std::fs::write(sys.path().join("vm/overcommit_memory"), no_number_or_strict).unwrap();
        let expected = HashMap::from([map_count.clone(), watches.clone()]);
        assert_eq!(passed_on(sys.path(), "quiet sysctl.vm.max_map_counts=1"), expected);
    }
    for parameters in ["sysctl.vm.max_map_count=1", "quiet sysctl/vm/max_map_count=1"] {
        assert_eq!(passed_on(sys.path(), parameters), HashMap::from([watches.clone()]));
    }
}
