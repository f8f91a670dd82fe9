use std::cmp::Ordering;

use serde_json::json;

use super::{Demand, Quota};

fn limited(memory_mib: u64, us: u64, period_us: u64) -> Demand {
    Demand {
        memory_mib: Some(memory_mib),
        cpu: Some(Quota { us, period_us }),
    }
}

#[test]
fn a_container_says_what_it_may_have() {
    let resources = json!({ "memory": { "limit": (10 << 20) + 1 }, "cpu": { "quota": 50_000 } });
    assert_eq!(Demand::of(Some(&resources)), limited(11, 50_000, 100_000));
    let none = json!({ "memory": { "limit": -1 }, "cpu": { "quota": 0, "period": 1000 } });
    assert_eq!(Demand::of(Some(&none)), Demand::default());
    assert_eq!(Demand::of(None), Demand::default());
}

#[test]
fn an_update_changes_what_it_names() {
    let before = limited(10, 20_000, 50_000);
    for (resources, after) in [
        (json!({}), before),
        (json!({ "cpu": { "shares": 7 }, "memory": { "limit": 0 } }), before),
        (json!({ "memory": { "limit": 3 << 20 } }), limited(3, 20_000, 50_000)),
        (json!({ "cpu": { "quota": 30_000 } }), limited(10, 30_000, 50_000)),
        (json!({ "cpu": { "period": 10_000 } }), limited(10, 20_000, 10_000)),
        (json!({ "cpu": { "quota": 5, "period": 6 } }), limited(10, 5, 6)),
    ] {
        assert_eq!(before.updated(&resources), after, "{resources}");
    }
    let lifted = json!({ "memory": { "limit": -1 }, "cpu": { "quota": -1 } });
    assert_eq!(before.updated(&lifted), Demand::default());
}

#[test]
fn one_without_a_limit_leaves_all_without() {
    let both = Demand::of_all([limited(10, 50_000, 100_000), limited(5, 10, 20)]);
    assert_eq!(both, limited(15, 100_000, 100_000));
    assert_eq!(both.cpu.unwrap().cpus(), 1);
    let memory_alone = Demand {
        memory_mib: Some(1),
        cpu: None,
    };
    assert_eq!(
        Demand::of_all([both, memory_alone]),
        Demand {
            memory_mib: Some(16),
            cpu: None
        }
    );
    let most = limited(u64::MAX, u64::MAX, 1);
    assert_eq!(Demand::of_all([most, most]), most);
    assert_eq!(Demand::of_all([]), Demand::default());
}

#[test]
fn quotas_are_compared_by_their_share_of_time() {
    let quota = |us, period_us| Quota { us, period_us };
    assert_eq!(quota(1, 2).compared(quota(50_000, 100_000)), Ordering::Equal);
    assert_eq!(quota(3, 2).compared(quota(100_000, 100_000)), Ordering::Greater);
    assert_eq!(quota(u64::MAX, 1).compared(quota(1, u64::MAX)), Ordering::Greater);
}
