use super::*;

#[test]
fn the_first_cause_counts_and_wakes_once() {
    let signal = StopSignal::new(EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap());
    assert_eq!(signal.cause(), None);
    signal.stop(StopCause::PoweredOff);
    signal.stop(StopCause::Reset);
    assert_eq!(signal.cause(), Some(StopCause::PoweredOff));
    assert_eq!(signal.event().read().unwrap(), 1);
}
