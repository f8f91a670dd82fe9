//! The threads of a file-system device.
//!
//! Each thread waits for kicks of the request queues, takes one request at a time and serves it to its end, so that a request costs no
//! hand-over. As long as the bound allows, one thread more than there are requests being served exists, so that a read or write that
//! the host's file system keeps waiting does not keep others waiting. Two things do: as many requests as there may be threads; and the
//! end of a file whose file system waits in close(2), under a lock of virtiofsd that every request with a handle takes.
//!
//! The high-priority queue has a thread of its own: what waits for the guest to forget a file must not keep it from being forgotten.
//! Otherwise requests never wait for each other, so the bound cannot deadlock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use crate::file_server::{FileServer, ServerMemory};
use crate::jail::{SpawnError, ThreadKind, spawn_worker};
use crate::sync::lock;
use crate::virtio::ring::Ring;

/// Most threads of one device that serve requests.
const MAX_THREADS: usize = 32;

/// Epoll's token for the end; smaller ones are request queues.
const TOKEN_STOP: u64 = u64::MAX;

/// Why the device has no threads.
#[derive(Debug, Error)]
pub enum PoolError {
    /// No epoll or event descriptor.
    #[error("cannot watch the queues: {0}")]
    Watch(#[from] Errno),
    /// Not even one thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The driver's fault.
    #[error("there is no high-priority queue")]
    NoQueue,
}

/// The running threads.
pub struct Pool {
    shared: Arc<Shared>,
}

/// A request queue and the event by which one thread tells another that there is more in it.
struct SharedRing {
    ring: Mutex<Ring>,
    more: EventFd,
}

struct Shared {
    server: Arc<FileServer>,
    memory: ServerMemory,
    rings: Vec<SharedRing>,
    epoll: Epoll,
    stop: EventFd,
    /// Threads that wait for a request.
    idle: AtomicUsize,
    /// That of the high-priority queue, and those that serve requests.
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: AtomicBool,
}

impl Pool {
    /// Starts serving with one thread for the first of `rings`, the high-priority queue, and one for all others.
    pub fn start(server: Arc<FileServer>, memory: ServerMemory, rings: Vec<Ring>) -> Result<Pool, PoolError> {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let (epoll, urgent_epoll) = (
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        );
        let stop = event()?;
        // Edge-triggered: each kick wakes one thread, and nobody has to read the count.
        let edge = |token| EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token);
        for epoll in [&epoll, &urgent_epoll] {
            epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_STOP))?;
        }
        let mut rings = rings.into_iter();
        let urgent = rings.next().ok_or(PoolError::NoQueue)?;
        urgent_epoll.add(urgent.kick(), edge(0))?;
        let mut shared_rings = Vec::with_capacity(rings.len());
        for (token, ring) in (0..).zip(rings) {
            let more = event()?;
            epoll.add(ring.kick(), edge(token))?;
            epoll.add(&more, edge(token))?;
            shared_rings.push(SharedRing {
                ring: Mutex::new(ring),
                more,
            });
        }
        let pool = Pool {
            shared: Arc::new(Shared {
                server,
                memory,
                rings: shared_rings,
                epoll,
                stop,
                idle: AtomicUsize::new(0),
                threads: Mutex::default(),
                stopping: AtomicBool::new(false),
            }),
        };
        match pool.start_threads(urgent, urgent_epoll) {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.stop();
                Err(error.into())
            }
        }
    }

    fn start_threads(&self, urgent: Ring, epoll: Epoll) -> Result<(), SpawnError> {
        let shared = Arc::clone(&self.shared);
        let handle = spawn_worker("fs-forget", ThreadKind::FileServer, move || {
            shared.run_urgent(urgent, &epoll);
        })?;
        lock(&self.shared.threads).push(handle);
        Shared::add_thread(&self.shared)
    }

    /// Ends all threads after the requests that they serve. No guest memory is touched after this.
    pub fn stop(self) {
        let handles = {
            let mut threads = lock(&self.shared.threads);
            // Under the lock, so that none is added afterwards.
            self.shared.stopping.store(true, Ordering::Release);
            std::mem::take(&mut *threads)
        };
        // An eventfd that is full is readable too.
        let _ = self.shared.stop.write(1);
        for handle in handles {
            if handle.join().is_err() {
                tracing::error!("a file server thread panicked");
            }
        }
    }
}

impl Shared {
    /// One more thread, unless there are enough or the end has come.
    fn add_thread(self: &Arc<Shared>) -> Result<(), SpawnError> {
        let mut threads = lock(&self.threads);
        if self.stopping.load(Ordering::Acquire) || threads.len() > MAX_THREADS {
            return Ok(());
        }
        // Counted before it runs, so that nobody starts another one meanwhile.
        self.idle.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(self);
        match spawn_worker("fs", ThreadKind::FileServer, move || shared.run()) {
            Ok(handle) => {
                threads.push(handle);
                Ok(())
            }
            Err(error) => {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    /// The life of the high-priority queue's thread.
    fn run_urgent(&self, mut ring: Ring, epoll: &Epoll) {
        let memory = self.memory.guest();
        while self.wait(epoll).is_some() {
            while !self.stopping.load(Ordering::Acquire) {
                let Some(chain) = ring.pop(memory) else {
                    if ring.ask_for_kick(memory) {
                        continue;
                    }
                    break;
                };
                let head = chain.head_index();
                self.server.handle_urgent(&chain);
                ring.give_back(memory, head, 0);
                ring.notify(memory);
            }
        }
    }

    /// A thread's life. It counts as idle on entry.
    fn run(self: Arc<Shared>) {
        if let Err(error) = self.server.prepare_thread() {
            self.idle.fetch_sub(1, Ordering::SeqCst);
            tracing::error!(%error, "a file server thread cannot get a working directory of its own");
            return;
        }
        while let Some(ring) = self.wait(&self.epoll).and_then(|token| self.rings.get(token)) {
            self.idle.fetch_sub(1, Ordering::SeqCst);
            self.serve(ring);
            self.idle.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The token of the queue that was kicked; `None` is the end.
    fn wait(&self, epoll: &Epoll) -> Option<usize> {
        loop {
            let mut events = [EpollEvent::empty()];
            match epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let token = events.first().map_or(TOKEN_STOP, EpollEvent::data);
                    return usize::try_from(token).ok().filter(|_| token != TOKEN_STOP);
                }
                Err(error) => {
                    tracing::error!(%error, "a file server thread cannot wait for requests");
                    return None;
                }
            }
        }
    }

    /// Serves requests until the queue is empty, or the end has come: a guest may fill the queue for ever.
    fn serve(self: &Arc<Shared>, shared_ring: &SharedRing) {
        let memory = self.memory.guest();
        let mut ring = lock(&shared_ring.ring);
        loop {
            let Some(chain) = ring.pop(memory) else {
                if ring.ask_for_kick(memory) {
                    continue;
                }
                return;
            };
            // Others must hear of what comes, or has come already, while this request is served.
            let more = ring.ask_for_kick(memory);
            drop(ring);
            if more {
                // An eventfd that is full has told them.
                let _ = shared_ring.more.write(1);
            }
            self.keep_one_idle();
            let head = chain.head_index();
            let written = self.server.handle(&self.memory, chain);
            ring = lock(&shared_ring.ring);
            ring.give_back(memory, head, written);
            ring.notify(memory);
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Starts a thread when all are busy.
    fn keep_one_idle(self: &Arc<Shared>) {
        if self.idle.load(Ordering::SeqCst) == 0
            && let Err(error) = self.add_thread()
        {
            tracing::warn!(%error, "the file server goes on with the threads that it has");
        }
    }
}
