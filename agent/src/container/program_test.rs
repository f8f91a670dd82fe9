use super::*;
use serde_json::json;

fn process(args: &[&str], env: &[&str]) -> Process {
    let json = json!({"user": {"uid": 0, "gid": 0}, "args": args, "env": env, "cwd": "/"});
    serde_json::from_value(json).unwrap()
}

fn strings(entries: Vec<CString>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.into_string().unwrap()).collect()
}

#[test]
fn a_program_is_found_in_the_search_path_of_its_own_environment() {
    let found = find(&process(&["sh"], &["PATH=/nowhere:/bin"])).unwrap();
    assert_eq!(found.to_str().unwrap(), "/bin/sh");
    let missing = find(&process(&["sh"], &["PATH=/bin", "PATH=/nowhere"])).unwrap_err();
    assert_eq!(
        missing, r#"exec: "sh": executable file not found in $PATH"#,
        "the last setting counts"
    );
    assert!(
        find(&process(&["sh"], &[])).is_ok(),
        "without PATH the usual directories are searched"
    );
}

#[test]
fn refusals_read_as_under_runc() {
    let complaint = |name: &str| find(&process(&[name], &["PATH=/bin"])).unwrap_err();
    assert_eq!(
        complaint("nosuch"),
        r#"exec: "nosuch": executable file not found in $PATH"#
    );
    assert_eq!(
        complaint("/nosuch"),
        r#"exec: "/nosuch": stat /nosuch: no such file or directory"#
    );
    assert_eq!(complaint("/etc/passwd"), r#"exec: "/etc/passwd": permission denied"#);
    assert_eq!(complaint("/etc"), r#"exec: "/etc": is a directory"#);
    assert_eq!(
        complaint("/etc/passwd/x"),
        r#"exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory"#
    );
    assert_eq!(complaint(""), r#"exec: "": executable file not found in $PATH"#);
}

#[test]
fn the_environment_keeps_its_order_and_gets_a_home() {
    let environment = strings(environment(&process(&["sh"], &["B=1", "A=2", "B=3"])));
    assert_eq!(environment, ["A=2", "B=3", "HOME=/root"]);
    let own = process(&["sh"], &["HOME=/elsewhere"]);
    assert_eq!(strings(super::environment(&own)), ["HOME=/elsewhere"]);
}

#[test]
fn zero_bytes_are_refused() {
    let complaint = |args: &[&str], env: &[&str]| find(&process(args, env)).unwrap_err();
    assert!(complaint(&["/bin/sh", "a\0b"], &[]).contains("argument \"a\\0b\" contains nul"));
    assert!(complaint(&["/bin/sh"], &["A=\0"]).contains("environment variable \"A=\\0\" contains nul"));
}
