use super::*;

fn reaper() -> Arc<Reaper> {
    Arc::new(Reaper {
        table: Mutex::default(),
    })
}

fn status(watch: &ExitWatch) -> Option<u32> {
    watch.borrow().map(|exit| exit.status)
}

#[test]
fn an_end_that_comes_before_its_watch_is_kept() {
    let reaper = reaper();
    let expectation = reaper.expect();
    reaper.ended(Pid::from_raw(7), 3);
    assert_eq!(status(&expectation.watch(Pid::from_raw(7))), Some(3));
    assert_eq!(status(&expectation.watch(Pid::from_raw(7))), None);
}

#[test]
fn an_end_that_comes_after_its_watch_is_told() {
    let reaper = reaper();
    let watch = reaper.expect().watch(Pid::from_raw(7));
    assert_eq!(status(&watch), None);
    reaper.ended(Pid::from_raw(7), 4);
    assert_eq!(status(&watch), Some(4));
}

#[test]
fn a_pid_that_comes_again_is_another_process() {
    let reaper = reaper();
    let early = reaper.expect();
    reaper.ended(Pid::from_raw(7), 1);
    let late = reaper.expect().watch(Pid::from_raw(7));
    assert_eq!(status(&late), None);
    reaper.ended(Pid::from_raw(7), 2);
    assert_eq!(status(&late), Some(2));
    assert_eq!(status(&early.watch(Pid::from_raw(7))), Some(1));
}

#[test]
fn nothing_is_kept_when_nobody_expects_anything() {
    let reaper = reaper();
    let expectation = reaper.expect();
    reaper.ended(Pid::from_raw(7), 1);
    drop(expectation);
    reaper.ended(Pid::from_raw(8), 1);
    assert!(reaper.lock().unclaimed.is_empty());
}
