use super::*;

#[test]
fn the_root_and_the_extra_parameters_are_there() {
    let line = build(false, "bulkhead.x=1").unwrap();
    assert!(line.contains("root=/dev/pmem0 rootfstype=erofs"));
    assert!(line.contains("loglevel=1 "));
    assert!(line.ends_with(" bulkhead.x=1"));
}

#[test]
fn a_verbose_console_shows_every_message() {
    assert!(build(true, "").unwrap().contains("ignore_loglevel"));
}

#[test]
fn bad_parameters_are_refused() {
    assert_eq!(build(false, "a\nb"), Err(CmdlineError::Unprintable));
    assert_eq!(build(false, "a\0b"), Err(CmdlineError::Unprintable));
    assert!(matches!(
        build(false, &"x".repeat(2048)),
        Err(CmdlineError::TooLong { .. })
    ));
}
