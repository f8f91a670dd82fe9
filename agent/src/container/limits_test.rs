use super::*;

fn limits(json: &str, existing: &[&str]) -> Vec<(String, String)> {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    files(&resources, |file| existing.contains(&file))
        .unwrap()
        .into_iter()
        .map(|limit| (limit.file, limit.value))
        .collect()
}

fn pair(file: &str, value: &str) -> (String, String) {
    (file.to_string(), value.to_string())
}

#[test]
fn shares_keep_their_fixed_points() {
    assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight), [1, 1, 100, 10_000, 10_000]);
    assert!(weight(512) < 100 && weight(2048) > 100);
}

#[test]
fn memory_and_swap_are_separated() {
    let json = r#"{"memory":{"limit":1000,"swap":1500,"reservation":10}}"#;
    let expected = [
        pair("memory.swap.max", "500"),
        pair("memory.max", "1000"),
        pair("memory.low", "10"),
    ];
    assert_eq!(limits(json, &["memory.swap.max"]), expected);
    assert_eq!(limits(json, &[]), expected[1..], "a kernel without swap");
    assert_eq!(limits(r#"{"memory":{"limit":-1}}"#, &[]), [pair("memory.max", "max")]);
    let unbounded = [pair("memory.swap.max", "max"), pair("memory.max", "max")];
    assert_eq!(limits(r#"{"memory":{"limit":-1}}"#, &["memory.swap.max"]), unbounded);
    for (json, refused) in [
        (r#"{"memory":{"swap":1000}}"#, "without memory limit"),
        (r#"{"memory":{"limit":-1,"swap":1000}}"#, "without memory limit"),
        (r#"{"memory":{"limit":2000,"swap":1000}}"#, ">= memory limit"),
    ] {
        let error = files(&serde_json::from_str(json).unwrap(), |_| true).unwrap_err();
        assert!(error.contains(refused), "{json}: {error}");
    }
}

#[test]
fn a_memory_limit_below_what_is_in_use_is_refused_for_those_who_ask() {
    let check = |memory: &str, usage: Option<u64>| {
        let resources = serde_json::from_str(&format!(r#"{{"memory":{memory}}}"#)).unwrap();
        check_usage(&resources, || usage)
    };
    let checked = r#"{"limit":1000,"swap":1500,"checkBeforeUpdate":true}"#;
    assert_eq!(check(checked, Some(999)), Ok(()));
    assert_eq!(check(checked, None), Ok(()));
    assert_eq!(
        check(checked, Some(1000)).unwrap_err(),
        "rejecting memory limit 1000 <= usage 1000"
    );
    assert!(
        check(checked, Some(1500))
            .unwrap_err()
            .contains("memory+swap limit 1500")
    );
    let unlimited = r#"{"limit":-1,"swap":-1,"checkBeforeUpdate":true}"#;
    for fine in [
        unlimited,
        r#"{"checkBeforeUpdate":true}"#,
        r#"{"limit":1000}"#,
        r#"{"limit":1000,"checkBeforeUpdate":false}"#,
    ] {
        assert_eq!(check(fine, Some(5000)), Ok(()), "{fine}");
    }
}

#[test]
fn cpu_quota_and_period_share_a_file() {
    assert_eq!(
        limits(r#"{"cpu":{"quota":50000}}"#, &[]),
        [pair("cpu.max", "50000 100000")]
    );
    assert_eq!(
        limits(r#"{"cpu":{"quota":-1,"period":20000}}"#, &[]),
        [pair("cpu.max", "max 20000")]
    );
}

#[test]
fn a_burst_goes_before_its_quota_and_once_more_behind_it() {
    let resources: LinuxResources =
        serde_json::from_str(r#"{"cpu":{"quota":20000,"period":50000,"burst":5000}}"#).unwrap();
    let limit = |file: &str, value: &str, again: bool| Limit {
        file: file.to_string(),
        value: value.to_string(),
        again,
    };
    let expected = [
        limit("cpu.max.burst", "5000", true),
        limit("cpu.max", "20000 50000", false),
        limit("cpu.max.burst", "5000", false),
    ];
    assert_eq!(files(&resources, |_| true).unwrap(), expected);
    assert_eq!(
        limits(r#"{"cpu":{"burst":5000}}"#, &[]),
        [pair("cpu.max.burst", "5000")]
    );
}

#[test]
fn what_means_host_hardware_is_left_out() {
    let json = r#"{"cpu":{"cpus":"0-3","mems":"0"},"blockIO":{"weight":100},
                   "unified":{"cpuset.cpus":"1","io.max":"8:0 rbps=1","memory.high":"77"}}"#;
    assert_eq!(limits(json, &[]), [pair("memory.high", "77")]);
}

#[test]
fn pids_limit_zero_is_unset_and_negative_is_unlimited() {
    assert_eq!(limits(r#"{"pids":{"limit":0}}"#, &[]), []);
    assert_eq!(limits(r#"{"pids":{"limit":-1}}"#, &[]), [pair("pids.max", "max")]);
    assert_eq!(limits(r#"{"pids":{"limit":7}}"#, &[]), [pair("pids.max", "7")]);
}

#[test]
fn huge_pages_have_the_sizes_that_the_machine_has() {
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}]}"#;
    let existing = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"];
    let expected = existing.map(|file| pair(file, "4194304"));
    assert_eq!(limits(json, &existing), expected, "a machine without pages of 1 GB");
    let unknown = r#"{"hugepageLimits":[{"pageSize":"3MB","limit":0}]}"#;
    let error = files(&serde_json::from_str(unknown).unwrap(), |_| true).unwrap_err();
    assert!(error.contains("invalid page size \"3MB\""), "{error}");
}
