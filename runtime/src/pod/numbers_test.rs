use std::collections::HashSet;

use super::{Numbers, foreign};

#[test]
fn numbers_are_above_kernel_pids_and_unique_among_pods() {
    let (mut a, mut b) = (Numbers::new(1), Numbers::new((1 << 22) - 1));
    let taken: Vec<u32> = (0..100).flat_map(|_| [a.take().unwrap(), b.take().unwrap()]).collect();
    assert!(taken.iter().all(|n| *n > 1 << 22));
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
}

#[test]
fn numbers_run_out_and_come_back_late() {
    let mut numbers = Numbers::new(7);
    let all: Vec<u32> = std::iter::from_fn(|| numbers.take()).collect();
    assert_eq!(all.len(), 1022);
    assert!(!all.contains(&foreign(7)), "taken for a process of a client");
    numbers.give_back(7);
    assert_eq!(numbers.take(), None);
    numbers.give_back(all[500]);
    numbers.give_back(all[3]);
    assert_eq!(numbers.take(), Some(all[3]));
    let mut fresh = Numbers::new(7);
    let first = fresh.take().unwrap();
    fresh.give_back(first);
    assert_ne!(fresh.take().unwrap(), first, "a number was used again at once");
}
