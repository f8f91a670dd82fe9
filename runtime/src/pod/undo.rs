//! Steps that take back what was done so far, last first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

type Step = Box<dyn FnOnce() -> Result<()> + Send>;

/// Steps, each with what it removes.
type Steps = Arc<Mutex<Vec<(String, Step)>>>;

/// Work that can fail half-way pushes its undo as it goes. Dropping a stack that was not run or disarmed runs it on a thread of
/// its own, so that a call that was given up leaves nothing either.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Steps,
}

/// Runs the steps of a stack whose owner is stuck. Those that the owner still pushes are the owner's.
pub(crate) struct Remote {
    steps: Steps,
}

impl Undo {
    /// `what` names the object for the log. The step may block, but only for a bounded time.
    pub(crate) fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + Send + 'static) {
        lock(&self.steps).push((what.into(), Box::new(step)));
    }

    /// For somebody else.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            steps: self.steps.clone(),
        }
    }

    /// Runs every step, also after one that failed; gives the first failure. Blocks.
    pub(crate) fn run(&mut self) -> Result<()> {
        run(&self.steps)
    }

    /// The same, away from the thread that serves everybody.
    pub(crate) async fn run_async(self) -> Result<()> {
        run_apart(self.steps.clone()).await
    }

    /// Moves all steps of `later` on top of this stack.
    pub(crate) fn append(&mut self, later: Undo) {
        let mut later = std::mem::take(&mut *lock(&later.steps));
        lock(&self.steps).append(&mut later);
    }
}

impl Remote {
    /// As [`Undo::run_async`].
    pub(crate) async fn run_async(self) -> Result<()> {
        run_apart(self.steps).await
    }
}

fn run(steps: &Steps) -> Result<()> {
    let mut result = Ok(());
    loop {
        let Some((what, step)) = lock(steps).pop() else {
            return result;
        };
        if let Err(error) = step() {
            tracing::warn!("{what}: cannot be removed: {error}");
            result = result.and(Err(error));
        }
    }
}

async fn run_apart(steps: Steps) -> Result<()> {
    let done = tokio::task::spawn_blocking(move || run(&steps)).await;
    done.unwrap_or_else(|e| Err(Error::internal("cleaning up did not finish").caused_by(e)))
}

fn lock(steps: &Steps) -> MutexGuard<'_, Vec<(String, Step)>> {
    steps.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Undo {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut *lock(&self.steps));
        if rest.is_empty() {
            return;
        }
        let rest = Arc::new(Mutex::new(rest));
        let thread = std::thread::Builder::new().name("undo".into());
        if let Err(error) = thread.spawn(move || drop(run(&rest))) {
            tracing::error!("cannot clean up: no thread: {error}");
        }
    }
}

#[cfg(test)]
#[path = "undo_test.rs"]
mod undo_test;
