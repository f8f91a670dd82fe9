use super::*;

#[test]
fn the_root_and_the_extra_parameters_are_there() {
    let line = build(false, None, "bulkhead.x=1").unwrap();
    assert!(line.contains("root=/dev/pmem0 rootfstype=erofs"));
    assert!(line.contains("loglevel=1 "));
    assert!(line.ends_with(" bulkhead.x=1"));
}

#[test]
fn a_verbose_console_shows_every_message() {
    assert!(build(true, None, "").unwrap().contains("ignore_loglevel"));
}

#[test]
fn the_kernel_starts_the_processors_that_are_there() {
    assert!(!build(false, None, "").unwrap().contains("maxcpus"));
    assert!(build(false, Some(2), "").unwrap().ends_with("init=/init maxcpus=2"));
    assert!(build(false, Some(2), "a=b").unwrap().ends_with(" maxcpus=2 a=b"));
}

#[test]
fn bad_parameters_are_refused() {
    assert_eq!(build(false, None, "a\nb"), Err(CmdlineError::Unprintable));
    assert_eq!(build(false, None, "a\0b"), Err(CmdlineError::Unprintable));
    assert!(matches!(
        build(false, None, &"x".repeat(2048)),
        Err(CmdlineError::TooLong { .. })
    ));
}
