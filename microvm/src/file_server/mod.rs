//! Serves the pod's share to the guest: FUSE requests in guest memory, answered from the files below one directory.
//!
//! Distrusts the guest. The boundary is the process's mount namespace: the root of the share is the root of everything that this
//! process can name. Within it, virtiofsd's pass-through file system opens only relative to descriptors of the share, with
//! RESOLVE_IN_ROOT and NO_MAGICLINKS, or by number below this process's /proc/self/fd.
//!
//! virtiofsd panics on a few requests that no driver makes; [`request`] and [`share`] refuse those before.
//!
//! virtiofsd does not serve file locks; [`locks`] does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use thiserror::Error;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::fuse::{InHeader, LkIn, LkOut, OutHeader};
use virtiofsd::passthrough::{self, CachePolicy, InodeFileHandlesMode, NegotiationMode, PassthroughFs};
use virtiofsd::server::Server;

use self::borrow::nobody;
use self::locks::Locks;
use self::request::{Forget, GETLK, SETLK, SETLKW};
use self::share::Share;
use crate::virtio::ring::Chain;

mod borrow;
mod descriptors;
mod locks;
mod memory;
mod request;
mod share;

pub use descriptors::reserve_descriptors;
pub use memory::ServerMemory;

/// `sizeof(struct fuse_out_header)`: every answer has one.
const OUT_HEADER: usize = 16;

/// Why the share cannot be served.
#[derive(Debug, Error)]
pub enum FileServerError {
    /// The descriptor limit cannot be read.
    #[error("cannot read the limit of open files: {0}")]
    Limit(#[source] Errno),
    /// The file system cannot be set up.
    #[error("cannot serve {root}: {source}")]
    Setup {
        /// Directory that was to be served.
        root: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// How long and how much the guest may cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharePolicy {
    /// Root file systems, which only the pod writes, and volumes, which others may write, on one share: names and attributes are
    /// believed for a second, file data and directory contents until a changed size or modification time shows them stale.
    Mixed,
}

impl SharePolicy {
    fn timeout(self) -> Duration {
        match self {
            SharePolicy::Mixed => Duration::from_secs(1),
        }
    }

    fn cache(self) -> CachePolicy {
        match self {
            // Always: an open does not drop what is cached. FUSE_AUTO_INVAL_DATA, which the server always offers, does.
            SharePolicy::Mixed => CachePolicy::Always,
        }
    }
}

/// Answers FUSE requests. Any number of threads may do so at a time.
pub struct FileServer {
    server: Server<Share>,
    files: Arc<PassthroughFs>,
    locks: Arc<Locks>,
}

impl FileServer {
    /// Serves the directory `root`. `descriptors` is a directory descriptor of this process's /proc/self/fd.
    /// Clears the umask of the process, because modes come from the guest.
    pub fn new(root: &str, descriptors: OwnedFd, policy: SharePolicy) -> Result<FileServer, FileServerError> {
        let setup = |source| FileServerError::Setup {
            root: root.to_owned(),
            source,
        };
        let for_locks = descriptors.try_clone().map_err(setup)?;
        let config = passthrough::Config {
            root_dir: root.to_owned(),
            proc_sfd_rawfd: Some(File::from(descriptors)),
            entry_timeout: policy.timeout(),
            attr_timeout: policy.timeout(),
            cache_policy: policy.cache(),
            writeback: false,
            xattr: true,
            posix_acl: NegotiationMode::Auto,
            security_label: NegotiationMode::Never,
            announce_submounts: true,
            inode_file_handles: InodeFileHandlesMode::Never,
            killpriv_v2: true,
            guest_fd_limit: descriptors::for_the_guest().map_err(FileServerError::Limit)?,
            ..passthrough::Config::default()
        };
        let files = Arc::new(PassthroughFs::new(config).map_err(setup)?);
        let locks = Arc::new(Locks::new(Arc::clone(&files), for_locks));
        Ok(FileServer {
            server: Server::new(Share::new(Arc::clone(&files), Arc::clone(&locks))),
            files,
            locks,
        })
    }

    /// What each serving thread does once, first: gets a working directory and a umask of its own, which requests change.
    pub fn prepare_thread(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_FS)
    }

    /// Carries out what came through the high-priority queue, which has no answer.
    pub fn handle_urgent(&self, chain: &Chain<'_>) {
        match request::forget(chain) {
            Ok(Forget { node, count }) => self.files.forget(nobody(), node, count),
            Err(error) => tracing::warn!(%error, "the guest sent an urgent file request that no driver makes"),
        }
    }

    /// Answers one request; returns the bytes written. A request that cannot be understood gets no answer.
    pub fn handle(&self, memory: &ServerMemory, chain: Chain<'_>) -> u32 {
        let view = memory.view();
        let opcode = request::opcode(&chain);
        let (reader, writer) = match (Reader::new(view, chain.clone()), Writer::new(view, chain)) {
            (Ok(reader), Ok(writer)) => (reader, writer),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "the guest sent a file request in unusable buffers");
                return 0;
            }
        };
        // virtiofsd panics without room for the answer's header.
        if writer.available_bytes() < OUT_HEADER {
            tracing::warn!("the guest sent a file request without room for an answer");
            return 0;
        }
        let handled = match opcode {
            Some(GETLK | SETLK | SETLKW) => self.lock(reader, writer).map_err(virtiofsd::Error::DecodeMessage),
            _ => self.server.handle_message(reader, writer, None::<&mut ()>),
        };
        match handled {
            Ok(written) => u32::try_from(written).unwrap_or(0),
            Err(error) => {
                tracing::warn!(%error, "the guest sent a file request that cannot be read");
                0
            }
        }
    }

    /// A request about locks, whose arguments virtiofsd does not read. Gives the bytes written.
    fn lock(&self, mut reader: Reader<'_>, mut writer: Writer<'_>) -> io::Result<usize> {
        let header: InHeader = reader.read_obj()?;
        let request: LkIn = reader.read_obj()?;
        let answer = match header.opcode {
            GETLK => self.locks.get(header.nodeid, &request).map(Some),
            _ => self.locks.set(header.nodeid, &request).map(|()| None),
        };
        let body = answer.as_ref().map_or(0, |lock| lock.map_or(0, |_| size_of::<LkOut>()));
        writer.write_obj(OutHeader {
            len: (OUT_HEADER + body) as u32,
            error: answer.as_ref().map_or_else(errno, |_| 0),
            unique: header.unique,
        })?;
        if let Ok(Some(lk)) = answer {
            writer.write_obj(LkOut { lk })?;
        }
        Ok(writer.bytes_written())
    }

    /// Forgets everything that the guest looked up and opened. No request is being handled.
    pub fn forget_all(&self) {
        self.server.destroy();
    }
}

/// The error of an answer, which is a negative number.
fn errno(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(Errno::EIO as i32)
}
