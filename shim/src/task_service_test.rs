use std::time::{Duration, SystemTime};

use super::*;

fn request() -> api::CreateTaskRequest {
    api::CreateTaskRequest {
        id: "c1".into(),
        bundle: "/run/b".into(),
        stdin: "/run/fifo/in".into(),
        stdout: "/run/fifo/out".into(),
        terminal: true,
        ..Default::default()
    }
}

fn container(request: &api::CreateTaskRequest) -> Result<ContainerSpec> {
    container_without_spec(request, watch::channel(false).1)
}

#[test]
fn a_request_becomes_a_container() {
    let mut request = request();
    let overlay = containerd_shim_protos::types::mount::Mount {
        type_: "overlay".into(),
        source: "overlay".into(),
        options: vec!["lowerdir=/a".into()],
        ..Default::default()
    };
    request.rootfs = vec![overlay];
    let spec = container(&request).unwrap();
    assert_eq!(spec.id.as_str(), "c1");
    assert_eq!(spec.rootfs[0].fstype, "overlay");
    assert_eq!(spec.rootfs[0].options, ["lowerdir=/a"]);
    assert!(spec.stdio.terminal);
    assert_eq!(spec.stdio.stdout, Some(PathBuf::from("/run/fifo/out")));
    assert_eq!(spec.stdio.stderr, None, "an empty path is no path");
}

#[test]
fn requests_that_cannot_be_served_are_refused_by_name() {
    let with = |change: fn(&mut api::CreateTaskRequest)| {
        let mut request = request();
        change(&mut request);
        container(&request).unwrap_err()
    };
    let error = with(|r| r.checkpoint = "/checkpoints/1".into());
    assert!(error.to_string().contains("/checkpoints/1"), "{error}");
    let error = with(|r| r.bundle = "relative".into());
    assert!(error.to_string().contains("relative"), "{error}");
    for bad in ["", "a/b", ".."] {
        let mut request = request();
        request.id = bad.into();
        assert_eq!(container(&request).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_stopped_process_tells_how_and_when() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let state = ProcessState {
        status: Status::Stopped,
        pid: 7,
        exit: Some(Exit { status: 137, at }),
        stdio: stdio(false, "", "/out", "/err"),
        bundle: "/run/b".into(),
    };
    let asked = api::StateRequest {
        id: "c1".into(),
        exec_id: "e1".into(),
        ..Default::default()
    };
    let answer = state_answer(asked, state);
    assert_eq!(
        (answer.id.as_str(), answer.exec_id.as_str(), answer.pid),
        ("c1", "e1", 7)
    );
    assert_eq!(answer.status.enum_value(), Ok(api::Status::STOPPED));
    assert_eq!(
        (answer.exit_status, answer.exited_at.seconds, answer.exited_at.nanos),
        (137, 1, 500_000_000)
    );
    assert_eq!((answer.stdin.as_str(), answer.stderr.as_str()), ("", "/err"));
}

#[test]
fn a_running_process_has_gos_zero_time_as_its_exit_time() {
    let state = ProcessState {
        status: Status::Running,
        pid: 7,
        exit: None,
        stdio: StdioPaths::default(),
        bundle: "/run/b".into(),
    };
    let answer = state_answer(api::StateRequest::default(), state);
    // 0001-01-01T00:00:00Z, by date(1).
    assert_eq!(answer.exited_at.seconds, -62_135_596_800);
    assert_eq!(answer.status.enum_value(), Ok(api::Status::RUNNING));
}

#[test]
fn process_details_are_of_the_type_that_clients_read() {
    let any = details(Some("e1".into()), 42);
    assert_eq!(any.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(
        ProcessDetails::parse_from_bytes(&any.value).unwrap().exec_id,
        "e1 (guest pid 42)"
    );
}
