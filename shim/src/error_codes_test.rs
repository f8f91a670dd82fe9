use super::*;

#[test]
fn kinds_that_clients_tell_apart_have_the_code_of_their_name() {
    let pairs = [
        (ErrorKind::NotFound, 5),
        (ErrorKind::AlreadyExists, 6),
        (ErrorKind::FailedPrecondition, 9),
        (ErrorKind::InvalidArgument, 2),
        (ErrorKind::DeadlineExceeded, 4),
        (ErrorKind::Unavailable, 14),
        (ErrorKind::Internal, 2),
    ];
    for (kind, number) in pairs {
        assert_eq!(code(kind) as i32, number, "{kind:?}");
    }
}

#[test]
fn the_answer_tells_the_cause() {
    let error = Error::new(ErrorKind::NotFound, "container c1").caused_by("no such file");
    let ttrpc::Error::RpcStatus(status) = answer(error) else {
        panic!("not a status")
    };
    assert_eq!(status.code(), Code::NOT_FOUND);
    assert_eq!(status.message(), "container c1: no such file");
}

#[test]
fn what_cannot_be_served_says_so() {
    let ttrpc::Error::RpcStatus(status) = unimplemented("checkpoints") else {
        panic!("not a status")
    };
    assert_eq!(status.code(), Code::UNIMPLEMENTED);
}
