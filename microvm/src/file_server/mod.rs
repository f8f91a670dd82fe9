//! Serves the pod's share to the guest: FUSE requests in guest memory, answered from the files below one directory.
//!
//! Distrusts the guest. The boundary is the process's mount namespace: the root of the share is the root of everything that this
//! process can name. Within it, virtiofsd's pass-through file system looks up only relative to descriptors of the share, with
//! RESOLVE_IN_ROOT and NO_MAGICLINKS, or opens by number below this process's /proc/self/fd. What makes, renames and removes takes
//! names as they come, so only those of one entry reach it ([`names`]). This process's own memory is no file of the share ([`procfs`]).
//!
//! virtiofsd panics on a few requests that no driver makes; [`request`] and [`share`] refuse those before. How much it remembers for
//! the guest is bounded by [`crowd`].
//!
//! virtiofsd does not serve file locks and files without a name; [`locks`] and [`unnamed`] do.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use thiserror::Error;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::passthrough::{self, InodeFileHandlesMode, NegotiationMode, PassthroughFs};
use virtiofsd::server::Server;

use self::cache::Places;
use self::locks::Locks;
use self::open_files::{OpenFiles, nobody};
use self::request::Forget;
use self::share::Share;
use self::unnamed::UnnamedFiles;
use crate::complaints::Complaints;
use crate::virtio::buffers::{BufferError, MAX_PIECES};
use crate::virtio::ring::Chain;

mod cache;
mod calls;
mod crowd;
mod descriptors;
mod locks;
mod memory;
mod names;
mod open_files;
mod owners;
mod procfs;
mod request;
mod share;
mod unnamed;

pub use crowd::{Alarm, Crowd};
pub use descriptors::reserve_descriptors;
pub use memory::ServerMemory;
pub use owners::{Owners, PlaceError};

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

/// Answers FUSE requests. Any number of threads may do so at a time.
pub struct FileServer {
    server: Server<Share>,
    share: Share,
    complaints: Complaints,
}

impl FileServer {
    /// Serves the directory `root`. `descriptors` is a directory descriptor of this process's /proc/self/fd.
    /// Clears the umask of the process, because modes come from the guest.
    pub fn new(
        root: &str,
        descriptors: OwnedFd,
        owners: Arc<Owners>,
        crowd: Arc<Crowd>,
    ) -> Result<FileServer, FileServerError> {
        let setup = |source| FileServerError::Setup {
            root: root.to_owned(),
            source,
        };
        let for_locks = descriptors.try_clone().map_err(setup)?;
        let for_unnamed = descriptors.try_clone().map_err(setup)?;
        let config = passthrough::Config {
            root_dir: root.to_owned(),
            proc_sfd_rawfd: Some(File::from(descriptors)),
            entry_timeout: cache::SHORT,
            attr_timeout: cache::SHORT,
            cache_policy: cache::DATA,
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
        let files = OpenFiles {
            named: Arc::new(PassthroughFs::new(config).map_err(setup)?),
            unnamed: Arc::new(UnnamedFiles::new(for_unnamed)),
        };
        let share = Share {
            locks: Arc::new(Locks::new(files.clone(), for_locks)),
            places: Arc::new(Places::new(crowd.clone())),
            crowd,
            owners,
            files,
        };
        Ok(FileServer {
            server: Server::new(share.clone()),
            share,
            complaints: Complaints::default(),
        })
    }

    /// What each serving thread does once, first: gets a working directory and a umask of its own, which requests change.
    pub fn prepare_thread(&self) -> Result<(), Errno> {
        unshare(CloneFlags::CLONE_FS)
    }

    /// Carries out what came through the high-priority queue, which has no answer.
    pub fn handle_urgent(&self, chain: &Chain<'_>) {
        match request::forget(chain) {
            Ok(Forget { node, count }) => self.share.forget(nobody(), node, count),
            Err(error) => self.complain("an urgent file request that no driver makes", &error),
        }
    }

    fn complain(&self, sent: &str, error: &dyn std::fmt::Display) {
        if self.complaints.one_more() {
            tracing::warn!(%error, "the guest sent {sent}");
        }
    }

    /// Answers one request; returns the bytes written. A request that cannot be understood gets no answer.
    pub fn handle(&self, memory: &ServerMemory, chain: Chain<'_>) -> u32 {
        let view = match memory.view() {
            Ok(view) => view,
            Err(error) => {
                tracing::error!(%error, "the guest's memory cannot be shared with the file server");
                return 0;
            }
        };
        // virtiofsd collects them all.
        if chain.clone().nth(MAX_PIECES).is_some() {
            self.complain("a file request", &BufferError::TooManyPieces);
            return 0;
        }
        let ours = calls::is_ours(request::opcode(&chain));
        let (reader, writer) = match (Reader::new(&view, chain.clone()), Writer::new(&view, chain)) {
            (Ok(reader), Ok(writer)) => (reader, writer),
            (Err(error), _) | (_, Err(error)) => {
                self.complain("a file request in unusable buffers", &error);
                return 0;
            }
        };
        // virtiofsd panics without room for the answer's header.
        if writer.available_bytes() < OUT_HEADER {
            self.complain("a file request", &"without room for an answer");
            return 0;
        }
        let handled = match ours {
            true => calls::serve(&self.share, reader, writer).map_err(virtiofsd::Error::DecodeMessage),
            false => self.server.handle_message(reader, writer, None::<&mut ()>),
        };
        match handled {
            Ok(written) => u32::try_from(written).unwrap_or(0),
            Err(error) => {
                self.complain("a file request that cannot be read", &error);
                0
            }
        }
    }

    /// Forgets everything that the guest looked up and opened. No request is being handled.
    pub fn forget_all(&self) {
        self.server.destroy();
    }
}
