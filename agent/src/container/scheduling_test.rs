use super::*;
use serde_json::json;

fn spec() -> Spec {
    serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "cwd": "/",
            "scheduler": { "policy": "SCHED_BATCH", "nice": 5 },
            "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 },
        },
        "linux": { "personality": { "domain": "LINUX32" } },
    }))
    .unwrap()
}

#[test]
fn a_process_has_the_containers_unless_it_asks_for_its_own() {
    let container = Scheduling::of(&spec());
    let asks = |fields| serde_json::from_value::<Process>(fields).unwrap();
    let plain = asks(json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/" }));
    assert_eq!(container.clone().with(&plain), container);
    let own = asks(json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "scheduler": { "policy": "SCHED_IDLE" } }));
    let own = container.clone().with(&own);
    assert_eq!(
        *own.scheduler.as_ref().unwrap().policy(),
        LinuxSchedulerPolicy::SchedIdle
    );
    assert_eq!(own.io_priority, container.io_priority);
    assert_eq!(own.personality, Some(LinuxPersonalityDomain::PerLinux32));
}

#[test]
fn it_acts() {
    // On a thread of its own: the others stay as they are.
    std::thread::spawn(|| {
        Scheduling::of(&spec()).apply().unwrap();
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Fields 19 and 41 of proc_pid_stat(5): the nice value and the policy.
        assert_eq!([fields[16], fields[38]], ["5", "3"]);
        let machine = std::fs::read_to_string("/proc/thread-self/personality").unwrap();
        assert_eq!(machine.trim(), "00000008");
    })
    .join()
    .unwrap();
}
