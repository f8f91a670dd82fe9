use super::*;

fn filled(limits: Value) -> Value {
    let mut process = Map::new();
    process.insert("rlimits".into(), limits);
    fill_in(&mut process);
    process.remove("rlimits").unwrap()
}

#[test]
fn limits_that_are_not_named_are_those_of_this_process() {
    let own = json!({ "type": "RLIMIT_NOFILE", "soft": 3, "hard": 4 });
    let limits = filled(json!([own]));
    let of = |name: &str| {
        let mut found = limits.as_array().unwrap().iter().filter(|limit| limit["type"] == name);
        (found.next().cloned(), found.next().cloned())
    };
    assert_eq!(of("RLIMIT_NOFILE"), (Some(own), None));
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK).unwrap();
    assert_eq!(
        of("RLIMIT_STACK").0,
        Some(json!({ "type": "RLIMIT_STACK", "soft": soft, "hard": hard }))
    );
    assert_eq!(of("RLIMIT_CORE").0, None);
    assert_eq!(filled(Value::Null).as_array().unwrap().len(), INHERITED.len());
}

#[test]
fn what_is_no_list_is_left_alone() {
    assert_eq!(filled(json!("many")), json!("many"));
}
