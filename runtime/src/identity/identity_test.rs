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
        ids: GuestIds {
            single: BTreeSet::from([70_000, 1_000_650_000]),
            ranges: Vec::new(),
        },
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
            identity.bases().is_empty()
                && identity.placed().is_empty()
                && identity.files_of(&GuestIds::default()).unwrap().is_none()
                && identity.take_locks().is_empty()
        );
        assert_eq!(identity.extents(), [IdExtent::ALL]);
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
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let parent = tempfile::tempdir().unwrap();
    let config = config(IdMapping::Auto, parent.path());
    let mut undo = Undo::default();
    let first = Identity::take(&pod(None), None, &config, &mut undo).unwrap();
    let second = Identity::take(&pod(None), None, &config, &mut undo).unwrap();
    let bases = (first.bases()[0], second.bases()[0]);
    assert!(bases.0.abs_diff(bases.1) >= RANGE, "{bases:?}");
    assert_eq!(
        IdExtent::text(&first.extents()),
        format!("0 {} 65536\n{FIRST_PLACE} {} {HIGH}\n", bases.0, bases.0 + LOW)
    );
    assert_eq!(first.placed(), [70_000, 1_000_650_000]);

    let of = |uid: u32| json!({ "user": { "uid": uid } });
    let single = |ids: &[u32]| GuestIds {
        single: ids.iter().copied().collect(),
        ranges: Vec::new(),
    };
    let files = first.files_of(&single(&[0])).unwrap().unwrap();
    for known in [0, 65_535, 70_000, 1_000_650_000] {
        files.check(Some(&of(known))).unwrap();
    }

    // A further container's ids get places behind the first's, once; files that were mapped before do not know them.
    for _ in 0..2 {
        let later = first.files_of(&single(&[70_001])).unwrap().unwrap();
        assert_eq!(later.root(), bases.0);
        later.check(Some(&of(70_001))).unwrap();
    }
    let error = files.check(Some(&of(70_001))).unwrap_err().to_string();
    assert!(error.contains("70001") && error.contains(ANNOTATION), "{error}");
    assert_eq!(first.placed(), [70_000, 1_000_650_000, 70_001]);
    let groups: Vec<u32> = (100_000..100_000 + HIGH as u32).collect();
    let error = first.files_of(&single(&groups)).unwrap_err();
    assert!(error.to_string().contains("at most 160"), "{error}");

    // The monitors end before what they had is taken back.
    drop((first, second));
    undo.run().unwrap();
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// Needs root, as the shim has.
#[test]
fn what_user_namespaces_stand_for_has_ranges_of_its_own() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let parent = tempfile::tempdir().unwrap();
    let config = config(IdMapping::Always, parent.path());
    let mut undo = Undo::default();
    let mut spec = pod(None);
    spec.ids.add_range(100_000, 65_536);
    spec.ids.add_range(1_000_000, RANGE + 1);
    spec.ids.add_range(300_000, 7);
    let identity = Identity::take(&spec, None, &config, &mut undo).unwrap();
    let bases = identity.bases();
    assert_eq!((bases.len(), identity.take_locks().len()), (4, 4));
    let at = |range: usize, offset: u32| bases[range] + offset;
    let expected = [
        (0, at(0, 0), LOW),
        (100_000, at(1, 0), 65_536),
        (300_000, at(1, 65_536), 7),
        (1_000_000, at(2, 0), RANGE),
        (1_000_000 + RANGE, at(3, 0), 1),
        (FIRST_PLACE, at(0, LOW), HIGH as u32),
    ];
    let map: Vec<_> = identity
        .extents()
        .iter()
        .map(|line| (line.inside, line.outside, line.count))
        .collect();
    assert_eq!(map, expected);

    let behind = |first, count| {
        let mut ids = GuestIds::default();
        ids.add_range(first, count);
        ids
    };
    for known in [
        behind(1000, 60_000),
        behind(100_000, 65_536),
        behind(1_000_005, RANGE - 4),
    ] {
        identity.files_of(&known).unwrap().unwrap();
    }
    // What is behind a user namespace needs no place.
    let single = GuestIds {
        single: BTreeSet::from([100_001]),
        ranges: Vec::new(),
    };
    identity.files_of(&single).unwrap().unwrap();
    assert_eq!(identity.placed(), [70_000, 1_000_650_000]);
    for unknown in [behind(100_000, 65_537), behind(70_000, 1)] {
        let error = identity.files_of(&unknown).unwrap_err().to_string();
        assert!(error.contains("began with") && error.contains(ANNOTATION), "{error}");
    }

    for too_many in [
        behind(100_000, MORE_LINES as u32 * RANGE + 1),
        behind(FIRST_PLACE - 5, 6),
    ] {
        spec.ids = too_many;
        let error = Identity::take(&spec, None, &config, &mut undo).unwrap_err().to_string();
        assert!(
            error.contains("user namespaces") && error.contains("is required"),
            "{error}"
        );
    }
    drop(identity);
    undo.run().unwrap();
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn the_longest_map_fits_into_a_page() {
    let line = |inside, count| IdExtent {
        inside,
        outside: 2_147_000_000,
        count,
    };
    let ranges = (0..MORE_LINES as u32).map(|n| line(4_000_000_000 + n, RANGE));
    let high = (0..HIGH as u32).map(|n| line(4_100_000_000 + n, 1));
    let lines: Vec<IdExtent> = std::iter::once(line(0, LOW)).chain(ranges).chain(high).collect();
    let text = IdExtent::text(&lines);
    assert!(text.len() < 4096, "{} bytes", text.len());
}
