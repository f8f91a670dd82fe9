//! Requests whose arguments virtiofsd's server does not read: locks, and files without a name.

use std::io::{self, Write};

use nix::errno::Errno;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{CreateIn, EntryOut, InHeader, LkIn, LkOut, OpenOut, OutHeader};
use vm_memory::ByteValued;

use super::request::{GETLK, SETLK, SETLKW, TMPFILE};
use super::share::Share;

/// Whether [`serve`] is to answer such requests.
pub fn is_ours(opcode: Option<u32>) -> bool {
    matches!(opcode, Some(GETLK | SETLK | SETLKW | TMPFILE))
}

/// Answers one; gives the bytes written.
pub fn serve(share: &Share, mut reader: Reader<'_>, mut writer: Writer<'_>) -> io::Result<usize> {
    let header: InHeader = reader.read_obj()?;
    let answer = match header.opcode {
        GETLK => {
            let request: LkIn = reader.read_obj()?;
            let found = share.locks.get(header.nodeid, &request);
            found.map(|lk| LkOut { lk }.as_slice().to_vec())
        }
        TMPFILE => {
            let request: CreateIn = reader.read_obj()?;
            create_unnamed(share, &header, &request)
        }
        _ => {
            let request: LkIn = reader.read_obj()?;
            share.locks.set(header.nodeid, &request).map(|()| Vec::new())
        }
    };
    let (error, body) = match answer {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error().unwrap_or(Errno::EIO as i32), Vec::new()),
    };
    writer.write_obj(OutHeader {
        len: (size_of::<OutHeader>() + body.len()) as u32,
        error,
        unique: header.unique,
    })?;
    writer.write_all(&body)?;
    Ok(writer.bytes_written())
}

fn create_unnamed(share: &Share, header: &InHeader, request: &CreateIn) -> io::Result<Vec<u8>> {
    let caller = share.owners.caller(Context::from(*header))?;
    let files = &share.files;
    let made = files.with_folder(header.nodeid, |folder| {
        files.unnamed.create(folder, header.nodeid, &caller, request)
    });
    let (entry, fh) = made?;
    let opened = OpenOut {
        fh,
        ..OpenOut::default()
    };
    Ok([EntryOut::from(share.owners.entry(entry)).as_slice(), opened.as_slice()].concat())
}
