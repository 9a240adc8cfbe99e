//! Folders that appear whole: made aside, beside their place, and renamed.
//!
//! A process that ends before it renames leaves its folder, which may be as large as a dataset. An interrupt can be caught, a kill cannot: so each folder holds
//! a file that its process has locked. The system gives the lock up with the process, however that ends, where an id or an age would have to be guessed
//! at; whoever makes a folder beside one that nobody holds removes that first.

use super::{folder_of, nameless, sync_folder, temporary};
use crate::error::io;
use crate::{Error, Result};
use std::fs::{File, remove_dir_all, rename};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// How the names of folders aside begin.
const PREFIX: &str = ".tauten-aside-";
/// The file that is locked.
const LOCK: &str = "lock";
/// The folder that is to appear.
const NEW: &str = "new";
/// The folder that it takes the place of.
const OLD: &str = "old";
/// The folder that was to appear, once it is given up.
const GONE: &str = "gone";

/// What this process has in the making. Held while a folder of it is renamed or removed.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<PathBuf>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has [`abandon`] remove a temporary file, until it is dropped.
pub(crate) struct Listed(PathBuf);

impl Listed {
    /// A temporary file in `folder`.
    pub(crate) fn temporary(folder: &Path, prefix: &str) -> std::io::Result<(NamedTempFile, Listed)> {
        // Held while it is made, so that there is none that an interrupt does not know.
        let mut open = open();
        let file = temporary(folder, prefix)?;
        open.push(file.path().into());
        let listed = Listed(file.path().into());
        Ok((file, listed))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        open().retain(|path| *path != self.0);
    }
}

/// A folder in the making. Dropped before [`Aside::finish`], it leaves nothing.
pub(crate) struct Aside {
    out: PathBuf,
    parent: PathBuf,
    folder: PathBuf,
    new: PathBuf,
    /// None once it is given up.
    lock: Option<File>,
}

impl Aside {
    /// Begins what will be the folder `out`; makes the folders that `out` is to be in.
    ///
    /// # Errors
    /// A place that cannot be written to.
    pub(crate) fn new(out: &Path) -> Result<Aside> {
        let parent = folder_of(out);
        let refused = |e| io(parent)(nameless(e)).map(|message| format!("{message}; name another place"));
        std::fs::create_dir_all(parent).map_err(refused)?;
        remove_left(parent);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(refused)?;
            let path = folder.path().join(LOCK);
            let lock = File::create(&path).map_err(refused)?;
            // A file system without locks gives none to others either: they leave the folder alone.
            let _ = lock.lock();
            // Between these two, another process may have taken it for one that was left.
            if path.exists() {
                let folder = folder.keep();
                open().push(folder.clone());
                return Ok(Aside { out: out.into(), parent: parent.into(), new: folder.join(NEW), folder, lock: Some(lock) });
            }
        }
    }

    /// Where to make the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.new
    }

    /// The error with the name that the folder will have.
    pub(crate) fn named(&self, error: Error) -> Error {
        error.map(|message| message.replace(&*self.new.to_string_lossy(), &self.out.to_string_lossy()))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// It cannot be renamed: as where a folder that is not empty has that name by now.
    pub(crate) fn finish(self) -> Result<()> {
        let _open = open();
        rename(&self.new, &self.out).map_err(io(&self.out))?;
        sync_folder(&self.parent)
    }

    /// Gives the folder its name. What has that name already goes.
    ///
    /// # Errors
    /// It cannot be renamed; what was there stays.
    pub(crate) fn replace(self) -> Result<()> {
        let _open = open();
        let (out, old) = (&self.out, self.folder.join(OLD));
        // Windows does not rename over a folder, not even an empty one.
        let replaces = out.exists();
        if replaces {
            rename(out, &old).map_err(io(out))?;
        }
        if let Err(e) = rename(&self.new, out) {
            if replaces && rename(&old, out).is_err() {
                return Err(io(out)(e).map(|message| format!("{message}; what was there is {} now", old.display())));
            }
            return Err(io(out)(e));
        }
        sync_folder(&self.parent)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let mut open = open();
        remove(&self.folder, self.lock.take());
        open.retain(|folder| *folder != self.folder);
    }
}

/// Removes what this process has in the making, which must end right after it: whatever would still rename or remove a folder waits for ever.
pub(crate) fn abandon() {
    let open = open();
    for path in open.iter() {
        if path.is_dir() {
            remove(path, None);
        } else {
            let _ = std::fs::remove_file(path);
        }
    }
    std::mem::forget(open);
}

/// Removes the folders that processes which are gone have left in `parent`.
fn remove_left(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let folder = entry.path();
        // Links may lead anywhere.
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && folder.join(LOCK).symlink_metadata().is_ok_and(|lock| lock.is_file())
            && let Ok(lock) = File::options().write(true).open(folder.join(LOCK))
            && lock.try_lock().is_ok()
        {
            remove(&folder, Some(lock));
        }
    }
}

/// Removes a folder aside, as far as it can be: the lock last, so that a later process can remove what is left. Some file systems keep the name of a file
/// that is open.
fn remove(folder: &Path, lock: Option<File>) {
    let parts = [NEW, OLD].map(|name| folder.join(name));
    // A process ended between two renames: the old one is the user's, and has no other name.
    if parts.iter().all(|part| part.exists()) {
        return;
    }
    // Other threads may still make files there, by its name: one by one they would come as fast as they go.
    let _ = rename(&parts[0], folder.join(GONE));
    let parts = [GONE, NEW, OLD].map(|name| folder.join(name));
    if parts.iter().all(|part| !part.exists() || remove_dir_all(part).is_ok()) {
        drop(lock);
        let _ = remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as a process leaves it that is killed.
    fn left(parent: &Path, name: &str) -> (PathBuf, File) {
        let folder = parent.join(format!("{PREFIX}{name}"));
        std::fs::create_dir_all(folder.join(NEW).join("encoding")).unwrap();
        (folder.clone(), File::create(folder.join(LOCK)).unwrap())
    }

    #[test]
    fn what_nobody_holds_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let (dead, _) = left(place.path(), "dead");
        let (alive, lock) = left(place.path(), "alive");
        lock.lock().unwrap();
        let aside = Aside::new(&place.path().join("deep/out")).unwrap();
        assert!(dead.exists(), "elsewhere");
        let beside = Aside::new(&place.path().join("out")).unwrap();
        assert!(!dead.exists() && alive.exists() && beside.folder.exists());
        // What was to be replaced is there no more, and nowhere else.
        let (between, _) = left(place.path(), "between");
        std::fs::create_dir(between.join(OLD)).unwrap();
        drop(Aside::new(&place.path().join("other")).unwrap());
        assert!(between.join(OLD).exists());
        std::fs::remove_dir_all(between).unwrap();
        // Nor does one that is made meanwhile take another's.
        drop(Aside::new(&place.path().join("other")).unwrap());
        assert!(beside.folder.exists());
        drop((aside, beside, lock));
        drop(Aside::new(&place.path().join("out")).unwrap());
        assert_eq!(names(), [place.path().join("deep")]);
        assert!(open().iter().all(|folder| !folder.starts_with(place.path())));
    }

    #[test]
    fn a_folder_appears_whole_or_what_was_there_stays() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        for text in ["first", "second"] {
            let aside = Aside::new(&out).unwrap();
            std::fs::create_dir(aside.path()).unwrap();
            std::fs::write(aside.path().join("text"), text).unwrap();
            if text == "first" {
                aside.finish().unwrap()
            } else {
                aside.replace().unwrap()
            }
            assert_eq!(std::fs::read_to_string(out.join("text")).unwrap(), text);
        }
        // There is nothing to be renamed, or something has come to be there.
        assert!(Aside::new(&out).unwrap().replace().is_err());
        let aside = Aside::new(&out).unwrap();
        std::fs::create_dir(aside.path()).unwrap();
        assert!(aside.finish().is_err());
        assert_eq!(std::fs::read_to_string(out.join("text")).unwrap(), "second");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_what_the_user_named() {
        let place = tempfile::tempdir().unwrap();
        let aside = Aside::new(&place.path().join("out")).unwrap();
        let full = io(&aside.path().join("train.bin"))(std::io::ErrorKind::StorageFull.into());
        let text = aside.named(full).to_string().replace(&place.path().display().to_string(), "DIR");
        assert_eq!(text, "DIR/out/train.bin: no storage space; make room there or name a folder on another disk");
        std::fs::write(place.path().join("file"), "").unwrap();
        let Err(refused) = Aside::new(&place.path().join("file/out")) else { panic!("made in a file") };
        let text = refused.to_string();
        assert!(text.ends_with("; name another place") && !text.contains(PREFIX), "{text}");
    }
}
