use super::*;

const RANGES: [IdRange; 1] = [IdRange {
    first: 100_000,
    count: 2 * RANGE + 1,
}];

#[test]
fn a_range_is_free_when_its_last_holder_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ids");
    let (mut one, mut two) = (Undo::default(), Undo::default());
    let (first, monitor) = take(&folder, &RANGES, &mut one).unwrap();
    let (second, other) = take(&folder, &RANGES, &mut two).unwrap();
    assert_eq!((first, second), (100_000, 100_000 + RANGE));
    let error = take(&folder, &RANGES, &mut two).unwrap_err().to_string();
    assert!(
        error.contains("all 2 ranges") && error.contains("/etc/subuid"),
        "{error}"
    );

    // Its shim still has it, whatever the monitor does with its own hold.
    File::from(monitor).unlock().unwrap();
    release(&folder, first).unwrap();
    assert!(take(&folder, &RANGES, &mut two).is_err());
    one.run().unwrap();
    assert!(!file_of(&folder, first).exists());
    release(&folder, first).unwrap();

    // A monitor that outlives its shim.
    two.run().unwrap();
    assert!(file_of(&folder, second).exists());
    let (again, monitor) = take(&folder, &RANGES, &mut one).unwrap();
    assert_eq!(again, first);
    assert!(take(&folder, &RANGES, &mut one).is_err());
    drop((other, monitor));
    release(&folder, second).unwrap();
    one.run().unwrap();
    assert!(!folder.exists());
}

#[test]
fn ranges_of_a_former_layout_are_avoided() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ids");
    let mut undo = Undo::default();
    let (_, monitor) = take(&folder, &RANGES, &mut undo).unwrap();
    let moved = [IdRange {
        first: 100_001,
        count: 2 * RANGE,
    }];
    let (base, other) = take(&folder, &moved, &mut undo).unwrap();
    assert_eq!(base, 100_001 + RANGE);
    drop((monitor, other));
    undo.run().unwrap();
}

#[test]
fn a_file_without_a_holder_keeps_nobody_away() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("ids");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(file_of(&folder, 100_000), "").unwrap();
    let mut undo = Undo::default();
    let (base, monitor) = take(&folder, &RANGES, &mut undo).unwrap();
    assert_eq!(base, 100_000);
    drop(monitor);
    undo.run().unwrap();
}
