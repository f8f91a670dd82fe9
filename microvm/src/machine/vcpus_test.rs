use super::*;

#[test]
fn what_is_missing_is_made() {
    assert_eq!(missing(0, 4, 2).unwrap(), 0..2);
    assert_eq!(missing(2, 4, 4).unwrap(), 2..4);
}

#[test]
fn fewer_than_there_are_is_nothing_to_do() {
    for wanted in [0, 1, 2] {
        assert!(missing(2, 4, wanted).unwrap().is_empty());
    }
}

#[test]
fn more_than_there_can_be_is_refused() {
    let error = missing(2, 4, 5).unwrap_err();
    assert_eq!(
        error.to_string(),
        "5 vCPUs are more than the 4 that this machine can have"
    );
}
