//! The monitor of one pod, as the runtime sees it: a child process and a control socket (see `bulkhead_vmm_control`).
//!
//! Distrusts the vmm: messages are bounded by the channel, text is cut and stripped before it is logged, the pid that it
//! names is used only after the kernel has confirmed that it is a child of ours.

mod process;
mod session;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_vmm_control::{DiskSpec, MemoryState, Reply, Request};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use process::Spawned;

use crate::error::{Error, ErrorKind, Result};
use crate::pidfd::PidFd;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The guest powered itself off.
    pub(crate) orderly: bool,
    /// What is known of the cause, with the last console lines.
    pub(crate) reason: String,
}

/// What the session is asked to do.
enum Order {
    /// Send a request.
    Send(Pending),
    /// Send nothing more, which ends the machine with a report.
    HangUp,
}

/// A request on its way to the session.
struct Pending {
    request: Request,
    fds: Vec<OwnedFd>,
    answer: oneshot::Sender<Reply>,
}

/// How long a machine may take to report its end after it was hung up on.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the machine's end may follow the loss of its connections.
const END_IS_NEAR: Duration = Duration::from_secs(2);

/// How long a request may take that waits for nobody but the monitor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a request may take that waits for what may never happen: it ends with the machine.
const FOR_EVER: Duration = Duration::MAX;

/// A booted machine. Its end is seen by a task of its own; dropping this ends it.
pub(crate) struct Vmm {
    process: Arc<PidFd>,
    orders: mpsc::UnboundedSender<Order>,
    end: watch::Receiver<Option<End>>,
}

impl Vmm {
    /// Pid in our own pid namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Waits for its end. The process is then gone and reaped.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(unknown_end),
            Err(_) => unknown_end(),
        }
    }

    /// Runs work that needs the guest, but no longer than the machine lives. What fails by its end is told so.
    pub(crate) async fn unless_ended<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = tokio::select! {
            biased;
            result = work => result,
            end = self.ended() => return Err(end.into()),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                // The connection went first; the reason has come meanwhile or is about to.
                match tokio::time::timeout(END_IS_NEAR, self.ended()).await {
                    Ok(end) => Err(end.into()),
                    Err(_) => Err(error),
                }
            }
            result => result,
        }
    }

    /// Kills it; [`Vmm::ended`] tells when it is gone.
    pub(crate) fn kill(&self) {
        // The only failure is that it has gone already.
        let _ = self.process.signal(nix::sys::signal::Signal::SIGKILL);
    }

    /// Ends a machine that does not do what it should; the reason that it gives holds the last console lines.
    pub(crate) async fn hang_up(&self) -> End {
        // Without a session it has ended already.
        let _ = self.orders.send(Order::HangUp);
        match tokio::time::timeout(REPORT_TIMEOUT, self.ended()).await {
            Ok(end) => end,
            Err(_) => {
                self.kill();
                self.ended().await
            }
        }
    }

    /// Opens a vsock stream to the guest.
    pub(crate) async fn connect(&self, port: u32, timeout: Duration) -> Result<UnixStream> {
        let pair = || -> io::Result<(UnixStream, UnixStream)> {
            let (near, far) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            Ok((near, far))
        };
        let (near, far) = pair().map_err(|e| Error::internal("cannot make a socket pair").caused_by(e))?;
        match self
            .request(Request::Connect { port }, vec![far.into()], timeout)
            .await?
        {
            Reply::Done => Ok(near),
            other => Err(unexpected("Connect", &other)),
        }
    }

    /// Tells it the guest's ids that have places among its own, so that files can belong to them.
    pub(crate) async fn place_ids(&self, ids: Vec<u32>) -> Result<()> {
        self.done("PlaceIds", Request::PlaceIds { ids }).await
    }

    /// Plugs a disk; gives its slot on the guest's PCI bus.
    pub(crate) async fn attach_disk(&self, disk: DiskSpec, file: OwnedFd) -> Result<u8> {
        match self
            .request(Request::AttachDisk(disk), vec![file], ANSWER_TIMEOUT)
            .await?
        {
            Reply::Attached { slot } => Ok(slot),
            other => Err(unexpected("AttachDisk", &other)),
        }
    }

    /// Unplugs a disk that the guest has let go.
    pub(crate) async fn detach_disk(&self, id: String) -> Result<()> {
        self.done("DetachDisk", Request::DetachDisk { id }).await
    }

    /// Tells the guest how much memory it shall have, MiB. It takes or gives that in its own time.
    pub(crate) async fn resize_memory(&self, mib: u32) -> Result<()> {
        self.done("ResizeMemory", Request::ResizeMemory { mib }).await
    }

    /// Plugs the devices that no start waits for; the guest finds them when it looks for new ones.
    pub(crate) async fn plug_late_devices(&self) -> Result<()> {
        self.done("PlugLateDevices", Request::PlugLateDevices).await
    }

    /// Has the guest kernel's text and constants written to a file.
    pub(crate) async fn save_text(&self, file: OwnedFd) -> Result<()> {
        match self.request(Request::SaveText, vec![file], ANSWER_TIMEOUT).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected("SaveText", &other)),
        }
    }

    /// Has pages of a file used that are the same as the guest kernel's; returns how many bytes.
    pub(crate) async fn share_text(&self, file: OwnedFd) -> Result<u64> {
        match self.request(Request::ShareText, vec![file], ANSWER_TIMEOUT).await? {
            Reply::TextShared { bytes } => Ok(bytes),
            other => Err(unexpected("ShareText", &other)),
        }
    }

    /// What memory the guest has and uses.
    pub(crate) async fn memory(&self) -> Result<MemoryState> {
        match self.request(Request::ReadMemory, Vec::new(), ANSWER_TIMEOUT).await? {
            Reply::Memory(state) => Ok(state),
            other => Err(unexpected("ReadMemory", &other)),
        }
    }

    /// Makes it so many vCPUs in all, which the guest can then use.
    pub(crate) async fn add_vcpus(&self, count: u8) -> Result<()> {
        self.done("AddVcpus", Request::AddVcpus { count }).await
    }

    async fn done(&self, name: &str, request: Request) -> Result<()> {
        match self.request(request, Vec::new(), ANSWER_TIMEOUT).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(name, &other)),
        }
    }

    /// Waits until the guest remembers so many files that it should be made to forget some, which may be never. One caller at a time.
    pub(crate) async fn crowded(&self) -> Result<()> {
        match self.request(Request::AwaitCrowd, Vec::new(), FOR_EVER).await? {
            Reply::Crowded => Ok(()),
            other => Err(unexpected("AwaitCrowd", &other)),
        }
    }

    async fn request(&self, request: Request, fds: Vec<OwnedFd>, timeout: Duration) -> Result<Reply> {
        let what = match &request {
            Request::Connect { port } => format!("connecting to port {port} of the guest"),
            Request::AwaitCrowd => "waiting until the guest remembers too many files".to_owned(),
            Request::AttachDisk(disk) => format!("plugging disk {}", disk.id),
            Request::DetachDisk { id } => format!("unplugging disk {id}"),
            Request::PlaceIds { .. } => "giving ids of the guest their places in the monitor".to_owned(),
            Request::ResizeMemory { mib } => format!("giving the guest {mib} MiB of memory"),
            Request::PlugLateDevices => "plugging the devices for randomness and free memory".to_owned(),
            Request::SaveText => "saving the text of the guest's kernel".to_owned(),
            Request::ShareText => "sharing the text of the guest's kernel".to_owned(),
            Request::AddVcpus { count } => format!("giving the guest {count} vCPUs"),
            _ => "a request to the microVM's monitor".to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Send(Pending { request, fds, answer })).is_err() {
            return Err(self.gone(&what).await);
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(Reply::Failed { message })) => Err(Error::internal(format!(
                "{what} failed: {}",
                session::tame(&message, 1024)
            ))),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(self.gone(&what).await),
            Err(_) => Err(Error::timeout(format!(
                "{what}: no answer within {} s",
                timeout.as_secs()
            ))),
        }
    }

    async fn gone(&self, what: &str) -> Error {
        Error::unavailable(format!("{what}: the microVM has ended: {}", self.ended().await.reason))
    }
}

impl From<End> for Error {
    fn from(end: End) -> Error {
        Error::unavailable(format!("the pod's microVM has ended: {}", end.reason))
    }
}

fn unknown_end() -> End {
    End {
        orderly: false,
        reason: "nobody watched its end".into(),
    }
}

fn unexpected(asked: &str, got: &Reply) -> Error {
    let got = session::tame(&format!("{got:?}"), 200);
    Error::internal(format!(
        "the microVM's monitor answered {asked} with {got}: its version differs from the runtime's"
    ))
}

#[cfg(test)]
#[path = "vmm_test.rs"]
pub(crate) mod vmm_test;
