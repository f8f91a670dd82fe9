use std::process::Command;

use super::{PodFolder, PodRecord, ProcessRecord, cleanup, list};
use crate::config::Config;
use crate::error::ErrorKind;
use crate::ids::ContainerId;
use crate::pod::Undo;

struct Scratch(Config);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let state_dir = std::env::temp_dir().join(format!("bulkhead-state-{name}-{}", std::process::id()));
        Scratch(Config {
            state_dir,
            ..Config::default()
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0.state_dir);
    }
}

fn id() -> ContainerId {
    ContainerId::try_from("p1").unwrap()
}

fn record(vmm: Option<ProcessRecord>) -> PodRecord {
    PodRecord {
        namespace: "ns".into(),
        id: "p1".into(),
        shim_pid: 1,
        vmm,
        cgroup: None,
        vcpus: 1,
        memory_mib: 128,
        host_id_ranges: Vec::new(),
        created: 1,
    }
}

#[test]
fn a_pods_folder_comes_and_goes() {
    let scratch = Scratch::new("folder");
    let mut undo = Undo::default();
    let folder = PodFolder::create(&scratch.0, "ns", &id(), &mut undo).unwrap();
    folder.write_record(&record(None)).unwrap();
    assert_eq!(list(&scratch.0).unwrap(), [record(None)]);
    undo.run().unwrap();
    assert_eq!(std::fs::read_dir(&scratch.0.state_dir).unwrap().count(), 0);
}

#[test]
fn a_killed_shims_vmm_is_killed_and_its_folder_removed() {
    let scratch = Scratch::new("killed");
    let mut undo = Undo::default();
    let folder = PodFolder::create(&scratch.0, "ns", &id(), &mut undo).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    folder.write_record(&record(ProcessRecord::of(child.id()))).unwrap();
    assert_eq!(
        PodFolder::create(&scratch.0, "ns", &id(), &mut Undo::default())
            .unwrap_err()
            .kind(),
        ErrorKind::AlreadyExists
    );
    // A test's child is reaped by the kill itself, so its handle finds nothing.
    cleanup(&scratch.0, "ns", &id()).unwrap();
    assert!(child.try_wait().map_or(true, |status| status.is_some()));
    assert!(!scratch.0.state_dir.join("ns").exists());
    cleanup(&scratch.0, "ns", &id()).unwrap();
    undo.run().unwrap();
}

#[test]
fn a_process_that_got_the_vmms_pid_is_left_alone() {
    let scratch = Scratch::new("reused");
    let folder = PodFolder::create(&scratch.0, "ns", &id(), &mut Undo::default()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let mut other = ProcessRecord::of(child.id()).unwrap();
    other.start_time -= 1;
    std::fs::create_dir_all(folder.share()).unwrap();
    folder.write_record(&record(Some(other))).unwrap();
    cleanup(&scratch.0, "ns", &id()).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "an innocent process was killed");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_damaged_record_does_not_stop_the_cleaning_up() {
    let scratch = Scratch::new("damaged");
    let mut undo = Undo::default();
    let folder = PodFolder::create(&scratch.0, "ns", &id(), &mut undo).unwrap();
    std::fs::write(folder.path.join("pod.json"), b"{").unwrap();
    cleanup(&scratch.0, "ns", &id()).unwrap();
    assert!(!folder.path.exists());
    undo.run().unwrap();
}

#[test]
fn what_is_not_the_pods_is_not_deleted() {
    let scratch = Scratch::new("foreign");
    let mut undo = Undo::default();
    let folder = PodFolder::create(&scratch.0, "ns", &id(), &mut undo).unwrap();
    let precious = folder.share().join("precious");
    std::fs::write(&precious, b"data").unwrap();
    assert!(cleanup(&scratch.0, "ns", &id()).is_err());
    assert_eq!(std::fs::read(&precious).unwrap(), b"data");
    std::fs::remove_file(&precious).unwrap();
    undo.run().unwrap();
}
