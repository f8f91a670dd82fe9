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
