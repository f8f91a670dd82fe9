use super::*;

const RANGES: [IdRange; 1] = [IdRange {
    first: 100_000,
    count: 2 * RANGE + 1,
}];

#[test]
fn a_range_is_free_when_its_last_holder_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ids");
    let mut undo = Undo::default();
    let (first, shim) = take(&folder, &RANGES, &mut undo).unwrap();
    let (second, _other) = take(&folder, &RANGES, &mut undo).unwrap();
    assert_eq!((first, second), (100_000, 100_000 + RANGE));
    let error = take(&folder, &RANGES, &mut undo).unwrap_err().to_string();
    assert!(
        error.contains("all 2 ranges") && error.contains("/etc/subuid"),
        "{error}"
    );

    let monitor = shim.try_clone().unwrap();
    drop(shim);
    release(&folder, first).unwrap();
    assert!(take(&folder, &RANGES, &mut undo).is_err(), "the monitor still holds it");
    drop(monitor);
    release(&folder, first).unwrap();
    assert!(!file_of(&folder, first).exists());
    release(&folder, first).unwrap();
    let (again, _lock) = take(&folder, &RANGES, &mut undo).unwrap();
    assert_eq!(again, first);

    undo.run().unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_file_without_a_holder_keeps_nobody_away() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ids");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(file_of(&folder, 100_000), "").unwrap();
    let mut undo = Undo::default();
    assert_eq!(take(&folder, &RANGES, &mut undo).unwrap().0, 100_000);
    undo.run().unwrap();
}
