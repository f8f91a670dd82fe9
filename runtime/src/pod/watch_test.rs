use std::cell::Cell;

use super::{SETTLING_TRIES, tried_again};
use crate::error::{Error, Result};

/// What comes of an attempt that succeeds the `success`th time, and how often it was made. The pod is told to end after `end` times.
async fn attempts(success: u32, end: u32) -> (Result<()>, u32) {
    let made = Cell::new(0);
    let attempt = || {
        made.set(made.get() + 1);
        let made = made.get();
        async move {
            match made {
                made if made == success => Ok(()),
                made => Err(Error::internal(format!("attempt {made}"))),
            }
        }
    };
    let result = tried_again(|| made.get() >= end, attempt).await;
    (result, made.get())
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_until_it_succeeds() {
    let (result, made) = attempts(SETTLING_TRIES, u32::MAX).await;
    result.unwrap();
    assert_eq!(made, SETTLING_TRIES);
    let (result, made) = attempts(1, u32::MAX).await;
    result.unwrap();
    assert_eq!(made, 1);
}

#[tokio::test(start_paused = true)]
async fn what_never_succeeds_ends_with_the_last_error() {
    let (result, made) = attempts(u32::MAX, u32::MAX).await;
    assert!(result.unwrap_err().to_string().contains("attempt 4"));
    assert_eq!(made, 4);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_has_no_more_tries() {
    let (result, made) = attempts(u32::MAX, 2).await;
    result.unwrap();
    assert_eq!(made, 2);
}
