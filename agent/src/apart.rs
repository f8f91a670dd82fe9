//! Work that may block, beside the one thread that serves everybody.

use std::io;
use tokio::sync::oneshot;

/// Does `work` on a thread of its own. Fails when the kernel has no room for one, which a container can bring about: the pool of the async
/// runtime would panic, and take PID 1 and with it the guest along.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("apart".into());
    thread.spawn(move || {
        // Whoever has stopped waiting does not want to know.
        let _ = tell.send(work());
    })?;
    told.await.map_err(io::Error::other)
}
