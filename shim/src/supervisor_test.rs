use super::*;
use bulkhead_runtime::ids::ContainerId;

fn supervisor() -> Arc<Supervisor> {
    let launch = Launch {
        namespace: "test".into(),
        pod_id: "p".into(),
        bundle: "/nonexistent".into(),
        address: String::new(),
        events_address: String::new(),
        debug: false,
        oom_score_adj: None,
        options: RuntimeOptions::default(),
        started_us: 0,
    };
    Arc::new(Supervisor::new(launch, Config::default(), Queue::default()))
}

async fn create(supervisor: &Arc<Supervisor>) -> Error {
    let id = ContainerId::try_from("p").unwrap();
    let membership = Membership::Founds { pod: id.clone() };
    let container = ContainerSpec {
        id,
        bundle: "/nonexistent".into(),
        spec: serde_json::json!({}),
        rootfs: Vec::new(),
        stdio: Default::default(),
        given_up: watch::channel(false).1,
    };
    let created = supervisor.create(container, membership, RuntimeOptions::default());
    created.await.unwrap_err()
}

#[tokio::test]
async fn a_shim_that_ends_boots_no_pod() {
    let ending = supervisor();
    let gate = ending.gate.read().await;
    let (by, waiting) = (ending.clone(), ending.clone());
    let ends = tokio::spawn(async move { by.shut_down_if_empty().await });
    tokio::task::yield_now().await;
    let waits = tokio::spawn(async move { create(&waiting).await });
    tokio::task::yield_now().await;
    drop(gate);
    ends.await.unwrap();
    let error = waits.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("shim of pod p is ending"), "{error}");
    let told = supervisor();
    told.shut_down().await.unwrap();
    assert_eq!(create(&told).await.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_stays_one() {
    let supervisor = supervisor();
    supervisor.mark_ended(true);
    supervisor.mark_ended(false);
    assert!(supervisor.ended().await.by_itself);
}
