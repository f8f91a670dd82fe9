use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Hooks, run_poststop};

fn hooks(script: &str, timeout: u64) -> Hooks {
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": timeout }]);
    Hooks::of(
        &json!({ "ociVersion": "1.1.0", "hooks": { "createRuntime": hook } }),
        "c1",
        Path::new("/bundle"),
    )
    .unwrap()
}

#[tokio::test]
async fn a_hook_reads_the_state() {
    let script = r#"read state; case "$state" in *'"id":"c1"'*'"pid":42'*) test "$A" = b;; *) exit 9;; esac"#;
    hooks(script, 10).run_created(42).await.unwrap();
}

#[tokio::test]
async fn a_hook_without_an_environment_has_ours() {
    for (env, expected) in [(json!(null), "yes"), (json!([]), ""), (json!(["HOME=/x"]), "")] {
        // Cargo sets it for tests.
        let script = format!("test \"${{CARGO_MANIFEST_DIR:+yes}}\" = \"{expected}\"");
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": env });
        let hooks = Hooks::of(&json!({ "hooks": { "prestart": [hook] } }), "c1", Path::new("/")).unwrap();
        hooks.run_created(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_failing_hook_says_why() {
    let error = hooks("echo no such thing >&2; exit 3", 10)
        .run_created(1)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/bin/sh") && error.contains("status: 3") && error.contains("no such thing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_process_that_a_failing_hook_leaves_behind_is_not_waited_for() {
    let started = std::time::Instant::now();
    let script = "echo no such thing >&2; sleep 20 >/dev/null & exit 3";
    let error = hooks(script, 30).run_created(1).await.unwrap_err().to_string();
    assert!(
        error.contains("status: 3") && error.contains("no such thing"),
        "{error}"
    );
    assert!(started.elapsed().as_secs() < 10);
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed() {
    let error = hooks("sleep 100", 1).run_created(1).await.unwrap_err().to_string();
    assert!(error.contains("did not end within 1 s"), "{error}");
}

#[tokio::test]
async fn a_hook_that_does_not_read_a_large_state_is_killed_too() {
    let hook = json!({ "path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1 });
    let spec = json!({ "annotations": { "large": "x".repeat(256 << 10) }, "hooks": { "prestart": [hook] } });
    let hooks = Hooks::of(&spec, "c1", Path::new("/")).unwrap();
    let error = hooks.run_created(1).await.unwrap_err().to_string();
    assert!(error.contains("did not end within 1 s"), "{error}");
}

#[tokio::test]
async fn a_limit_that_no_clock_can_count_is_no_failure() {
    hooks("exit 0", u64::MAX).run_created(1).await.unwrap();
}

/// A bundle whose container has this poststop hook.
fn bundle(script: &str) -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script, bundle.path()], "env": ["PATH=/usr/bin:/bin"] });
    let spec = json!({ "ociVersion": "1.1.0", "hooks": { "poststop": [hook] } });
    std::fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
    bundle
}

#[tokio::test]
async fn hooks_after_the_end_run_once_whoever_is_first() {
    let told = |bundle: &tempfile::TempDir| std::fs::read_to_string(bundle.path().join("told")).unwrap_or_default();
    let script = r#"cat >>"$0/told""#;
    let (lost, orderly) = (bundle(script), bundle(script));
    let of = |bundle: &tempfile::TempDir| {
        Hooks::of(&crate::spec::load(bundle.path()).unwrap(), "c1", bundle.path()).unwrap()
    };
    run_poststop(lost.path(), "c1", Duration::from_secs(10)).unwrap();
    let state: serde_json::Value = serde_json::from_str(&told(&lost)).unwrap();
    assert_eq!((&state["id"], &state["status"]), (&json!("c1"), &json!("stopped")));
    assert_eq!((&state["bundle"], &state["pid"]), (&json!(lost.path()), &json!(null)));
    of(&lost).run_stopped().await;
    assert_eq!(told(&lost), state.to_string());

    of(&orderly).run_stopped().await;
    let once = told(&orderly);
    assert!(once.contains("stopped"), "{once}");
    run_poststop(orderly.path(), "c1", Duration::from_secs(10)).unwrap();
    assert_eq!(told(&orderly), once);
}

#[test]
fn hooks_of_a_lost_container_are_ended_in_time() {
    let bundle = bundle("exec sleep 100");
    let start = Instant::now();
    let error = run_poststop(bundle.path(), "c1", Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("did not end within 0.3 s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn malformed_hooks_are_refused() {
    let spec = json!({ "hooks": { "poststop": [{ "args": [] }] } });
    assert!(
        Hooks::of(&spec, "c1", Path::new("/"))
            .unwrap_err()
            .to_string()
            .contains("poststop")
    );
}
