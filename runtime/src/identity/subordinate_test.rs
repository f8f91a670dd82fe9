use super::*;

fn ranges_of(users: &str, groups: &str) -> Result<Vec<IdRange>> {
    let etc = tempfile::tempdir().unwrap();
    std::fs::write(etc.path().join("subuid"), users).unwrap();
    std::fs::write(etc.path().join("subgid"), groups).unwrap();
    ranges(etc.path())
}

#[test]
fn our_lines_count_when_they_stand_in_both_files() {
    let users = "# comment\ndev:100000:65536\nbulkhead:300000:200000\nbulkhead:900000:70000\nbulkhead:7:8\nbulkhead:300000:200000\n";
    let groups = "bulkhead:300000:200000\nbulkhead:900000:70001\nbulkhead:7:8\n";
    let expected = IdRange {
        first: 300_000,
        count: 200_000,
    };
    assert_eq!(ranges_of(users, groups).unwrap(), [expected]);
    assert_eq!(
        expected.parts(RANGE).collect::<Vec<_>>(),
        [300_000, 300_000 + RANGE, 300_000 + 2 * RANGE]
    );
    for (lines, what) in [
        ("bulkhead:100000:2", "has at least"),
        ("bulkhead:0:100000", "below 65536"),
        ("bulkhead:100000:100000\nbulkhead:150000:100000", "overlap"),
        (
            "bulkhead:100000:100000\ndockremap:165536:65536",
            "those of \"dockremap\"",
        ),
    ] {
        let error = ranges_of(lines, lines).unwrap_err().to_string();
        assert!(error.contains("subgid") && error.contains(what), "{error}");
    }
}

#[test]
fn without_lines_of_ours_those_of_others_are_left_alone() {
    let none = ranges(Path::new("/nonexistent")).unwrap();
    assert_eq!(none[0].first, DEFAULT.first);
    let others = format!("dockremap:{}:10\nbroken\nx:4294967295:5\n", DEFAULT.first + RANGE);
    let some = ranges_of(&others, "").unwrap();
    assert_eq!(some.len(), none.len() - 1);
    assert_eq!(some[1].first, DEFAULT.first + 2 * RANGE);
}
