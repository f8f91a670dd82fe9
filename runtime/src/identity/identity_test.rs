use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::ids::ContainerId;
use crate::pod::PodResources;

fn pod(annotation: Option<&str>) -> PodSpec {
    let annotations = annotation.map(|value| (ANNOTATION.to_owned(), value.to_owned()));
    PodSpec {
        namespace: "test".into(),
        id: ContainerId::try_from("pod").unwrap(),
        hostname: None,
        network_namespace: None,
        cgroup_path: None,
        resources: PodResources::default(),
        oom_score_adj: None,
        ids: BTreeSet::from([70_000, 1_000_650_000]),
        annotations: annotations.into_iter().collect::<HashMap<_, _>>(),
    }
}

fn config(id_mapping: IdMapping, ids: &Path) -> Config {
    Config {
        id_mapping,
        ids_dir: ids.join("ids"),
        ..Config::default()
    }
}

#[test]
fn ids_are_those_of_the_process() {
    let spec = json!({ "process": { "user": { "uid": 70_000, "gid": 65_535, "additionalGids": [5, 65_536, 4_294_967_295u32] } } });
    assert_eq!(
        ids_of(spec.get("process")),
        BTreeSet::from([5, 65_535, 65_536, 70_000, u32::MAX])
    );
    assert_eq!(high(&ids_of(spec.get("process"))), BTreeSet::from([65_536, 70_000]));
    assert!(ids_of(Some(&json!({ "user": { "uid": "x" } }))).is_empty() && ids_of(None).is_empty());
}

#[test]
fn the_host_s_ids_are_kept_where_that_is_asked_for_and_allowed() {
    let parent = tempfile::tempdir().unwrap();
    for (annotation, mapping) in [
        (None, IdMapping::Never),
        (Some("auto"), IdMapping::Never),
        (Some("never"), IdMapping::Auto),
    ] {
        let config = config(mapping, parent.path());
        let identity = Identity::take(&pod(annotation), None, &config, &mut Undo::default()).unwrap();
        assert!(
            identity.base().is_none()
                && identity.placed().is_none()
                && identity.files_of(None).unwrap().is_none()
                && identity.take_lock().is_none()
        );
        assert_eq!(identity.extents()[0].count, u32::MAX);
    }
    for (annotation, mapping, says) in [
        ("never", IdMapping::Always, "the opposite"),
        ("always", IdMapping::Never, "the opposite"),
        ("Never", IdMapping::Auto, "must be \"auto\""),
    ] {
        let config = config(mapping, parent.path());
        let error = Identity::take(&pod(Some(annotation)), None, &config, &mut Undo::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// Needs root, as the shim has.
#[test]
fn living_pods_have_different_ids_and_leave_none_behind() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let config = config(IdMapping::Auto, parent.path());
    let mut undo = Undo::default();
    let first = Identity::take(&pod(None), None, &config, &mut undo).unwrap();
    let second = Identity::take(&pod(None), None, &config, &mut undo).unwrap();
    let bases = (first.base().unwrap(), second.base().unwrap());
    assert!(bases.0.abs_diff(bases.1) >= RANGE, "{bases:?}");
    assert_eq!(
        IdExtent::text(&first.extents()),
        format!("0 {} 65536\n{FIRST_PLACE} {} {HIGH}\n", bases.0, bases.0 + LOW)
    );
    assert_eq!(first.placed().unwrap(), [70_000, 1_000_650_000]);

    let of = |uid: u32| json!({ "user": { "uid": uid } });
    let files = first.files_of(Some(&of(0))).unwrap().unwrap();
    for known in [0, 65_535, 70_000, 1_000_650_000] {
        files.check(Some(&of(known))).unwrap();
    }

    // A further container's ids get places behind the first's, once; files that were mapped before do not know them.
    for _ in 0..2 {
        let later = first.files_of(Some(&of(70_001))).unwrap().unwrap();
        assert_eq!(later.as_map().root, bases.0);
        later.check(Some(&of(70_001))).unwrap();
    }
    let error = files.check(Some(&of(70_001))).unwrap_err().to_string();
    assert!(error.contains("70001") && error.contains(ANNOTATION), "{error}");
    assert_eq!(first.placed().unwrap(), [70_000, 1_000_650_000, 70_001]);
    let groups: Vec<u32> = (100_000..100_000 + HIGH as u32).collect();
    let error = first
        .files_of(Some(&json!({ "user": { "additionalGids": groups } })))
        .unwrap_err();
    assert!(error.to_string().contains("at most 160"), "{error}");

    // The monitors end before what they had is taken back.
    drop((first, second));
    undo.run().unwrap();
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn as_many_high_ids_as_are_allowed_fit_into_a_map() {
    let high: Vec<u32> = (0..HIGH as u32).map(|n| 4_000_000_000 + 2 * n).collect();
    let lines = extents(2_147_000_000, &high);
    let text = IdExtent::text(&lines);
    assert!(text.len() < 4096, "{text}");
    assert_eq!(lines.last().unwrap().outside, 2_147_000_000 + RANGE - 1);
}
