use bulkhead_vmm_control::Counters;

use super::*;

#[test]
fn a_late_reply_holds_back_those_behind_it() {
    let mut replies = Replies::new().unwrap();
    let promise = replies.promise();
    replies.push(Reply::Counters(Counters::default()));
    assert!(replies.next().is_none());
    promise.keep(Reply::Done);
    assert!(matches!(replies.next(), Some(Reply::Done)));
    assert!(matches!(replies.next(), Some(Reply::Counters(_))));
    assert!(replies.next().is_none());
}

#[test]
fn a_broken_promise_is_a_failure() {
    let mut replies = Replies::new().unwrap();
    drop(replies.promise());
    assert!(matches!(replies.next(), Some(Reply::Failed { .. })));
    assert!(replies.bell.read().is_ok());
}

#[test]
fn a_reply_out_of_turn_holds_up_none_and_is_held_up_by_none() {
    let mut replies = Replies::new().unwrap();
    let crowded = replies.promise_aside();
    replies.push(Reply::Done);
    assert!(matches!(replies.next(), Some(Reply::Done)));
    let late = replies.promise();
    crowded.keep(Reply::Crowded);
    assert!(matches!(replies.next(), Some(Reply::Crowded)));
    assert!(replies.next().is_none());
    late.keep(Reply::Done);
    assert!(matches!(replies.next(), Some(Reply::Done)));
}
