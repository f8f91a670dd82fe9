use super::*;

const RANGES: [IdRange; 1] = [IdRange {
    first: 100_000,
    count: 2 * RANGE + 1,
}];

#[test]
fn a_range_is_free_when_its_last_holder_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let mut undo = Undo::default();
    let (first, shim) = take(state.path(), &RANGES, &mut undo).unwrap();
    let (second, _other) = take(state.path(), &RANGES, &mut undo).unwrap();
    assert_eq!((first, second), (100_000, 100_000 + RANGE));
    let error = take(state.path(), &RANGES, &mut undo).unwrap_err().to_string();
    assert!(
        error.contains("all 2 ranges") && error.contains("/etc/subuid"),
        "{error}"
    );

    let monitor = shim.try_clone().unwrap();
    drop(shim);
    release(state.path(), first).unwrap();
    assert!(
        take(state.path(), &RANGES, &mut undo).is_err(),
        "the monitor still holds it"
    );
    drop(monitor);
    release(state.path(), first).unwrap();
    assert!(!file_of(state.path(), first).exists());
    release(state.path(), first).unwrap();
    let (again, _lock) = take(state.path(), &RANGES, &mut undo).unwrap();
    assert_eq!(again, first);

    undo.run().unwrap();
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_file_without_a_holder_keeps_nobody_away() {
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join(FOLDER)).unwrap();
    std::fs::write(file_of(state.path(), 100_000), "").unwrap();
    let mut undo = Undo::default();
    assert_eq!(take(state.path(), &RANGES, &mut undo).unwrap().0, 100_000);
    undo.run().unwrap();
}
