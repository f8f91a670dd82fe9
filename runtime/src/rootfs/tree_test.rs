use super::*;

#[test]
fn what_was_tried_is_given_once_and_to_whom_it_fits() {
    let any = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let how = (true, Access::Read);
    let tried = Tried::default();
    tried.kept().push(("/a".into(), how, any()));
    assert!(tried.take("/b".as_ref(), how).is_none());
    assert!(tried.take("/a".as_ref(), (false, Access::Read)).is_none());
    assert!(tried.take("/a".as_ref(), how).is_some());
    assert!(tried.take("/a".as_ref(), how).is_none());
    tried.kept().push(("/a".into(), how, any()));
    tried.clear();
    assert!(tried.take("/a".as_ref(), how).is_none());
}
