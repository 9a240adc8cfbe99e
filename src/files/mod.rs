//! What files and folders take beyond the standard library: appearing whole, lasting, being one process's at a time, lying in memory.

pub(crate) mod aside;

use crate::error::io;
use crate::{Error, Result};
use memmap2::Mmap;
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// The error of a path that is no UTF-8 where it has to be written as text.
pub(crate) fn no_text(path: &Path) -> Error {
    Error::user(format!("{}: this path is not UTF-8; rename what in it is not", path.display()))
}

/// A temporary file with the rights of an ordinary new file: it becomes one.
pub(crate) fn temporary(folder: &Path, prefix: &str) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(nameless)
}

/// The folder that `path` lies in: the present one of a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// An error without the name of a temporary file, of which the user knows nothing.
fn nameless(e: std::io::Error) -> std::io::Error {
    let text = e.to_string();
    std::io::Error::new(e.kind(), text.split(" at path ").next().unwrap_or(&text))
}

/// Makes `bytes` the file `path`: written aside under a name that begins with `prefix`, synced and renamed.
pub(crate) fn replace(path: &Path, prefix: &str, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    let mut aside = temporary(folder, prefix).map_err(io(folder))?;
    // Not through the temporary file itself, whose errors have its name.
    aside.as_file_mut().write_all(bytes).and_then(|()| aside.as_file().sync_all()).map_err(io(path))?;
    aside.persist(path).map_err(|e| io(path)(e.error))?;
    sync_folder(folder)
}

/// Makes `value`, as indented JSON, the file `path`, as [`replace`] does.
pub(crate) fn replace_json(path: &Path, prefix: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::system(format!("{}: {e}", path.display())))?;
    replace(path, prefix, (text + "\n").as_bytes())
}

/// Makes renames within a folder last; only Unix can and needs to.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|f| f.sync_all()).map_err(io(dir))?;
    }
    Ok(())
}

/// Keeps other processes from what this one does in `folder`, as long as the file is open; `does` says it in words.
///
/// # Errors
///
/// Another process that does it.
pub(crate) fn lock_folder(folder: &Path, does: &str) -> Result<File> {
    // A file of its own: on Windows nobody can read one that is locked.
    let path = folder.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(io(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::user(format!("{}: another process {does}; wait for it, or end it", folder.display())))
        }
        // A file system without locks says so in many ways.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Maps the file `path`, which is open as `file`.
///
/// # Errors
///
/// What the system reports.
#[expect(unsafe_code, reason = "a mapped file may change under the map")]
pub(crate) fn map(path: &Path, file: &File) -> Result<Mmap> {
    // SAFETY: a mapped file that another process cuts short or rewrites is undefined behaviour. Datasets and checkpoints are written
    // aside and renamed as a whole and never changed in place, so a map keeps the file it was made of, even when that is replaced. Who
    // names a file of another program's has to leave it alone meanwhile.
    let map = unsafe { Mmap::map(file) };
    map.map_err(|e| {
        Error::system(format!(
            "{}: cannot map it into memory: {e}; allow more address space (ulimit -v), the file is not held in memory",
            path.display()
        ))
    })
}
