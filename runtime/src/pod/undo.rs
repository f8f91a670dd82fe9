//! Steps that take back what was done so far, last first.

use crate::error::{Error, Result};

type Step = Box<dyn FnOnce() -> Result<()> + Send>;

/// Work that can fail half-way pushes its undo as it goes. Dropping a stack that was not run or disarmed runs it on a thread of
/// its own, so that a call that was given up leaves nothing either.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// `what` names the object for the log. The step may block, but only for a bounded time.
    pub(crate) fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + Send + 'static) {
        self.steps.push((what.into(), Box::new(step)));
    }

    /// Runs every step, also after one that failed; gives the first failure. Blocks.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step() {
                tracing::warn!("{what}: cannot be removed: {error}");
                result = result.and(Err(error));
            }
        }
        result
    }

    /// The same, away from the thread that serves everybody.
    pub(crate) async fn run_async(mut self) -> Result<()> {
        let done = tokio::task::spawn_blocking(move || self.run()).await;
        done.unwrap_or_else(|e| Err(Error::internal("cleaning up did not finish").caused_by(e)))
    }

    /// Moves all steps of `later` on top of this stack.
    pub(crate) fn append(&mut self, mut later: Undo) {
        self.steps.append(&mut later.steps);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let mut rest = Undo {
            steps: std::mem::take(&mut self.steps),
        };
        let thread = std::thread::Builder::new().name("undo".into());
        if let Err(error) = thread.spawn(move || drop(rest.run())) {
            tracing::error!("cannot clean up: no thread: {error}");
        }
    }
}

#[cfg(test)]
#[path = "undo_test.rs"]
mod undo_test;
