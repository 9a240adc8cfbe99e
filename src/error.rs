//! The one error type: a line for a person, and whether they can mend it themselves.

use std::cell::Cell;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Once;

/// What went wrong, in one line: what, where (file, key, row, column, limit) and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The user can mend it (configuration, input files, command line, a limit with a key to change). Exit code 2.
    User(String),
    /// The user cannot mend it (I/O, a lost device, a wrong driver). Exit code 1.
    System(String),
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that the user can mend.
    pub fn user(message: impl Into<String>) -> Self {
        Error::User(message.into())
    }

    /// An error that the user cannot mend.
    pub fn system(message: impl Into<String>) -> Self {
        Error::System(message.into())
    }

    /// The process exit code: 2 for what the user can mend, 1 for what they cannot.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::User(_) => 2,
            Error::System(_) => 1,
        }
    }

    /// The same error with what was being done in front: `context: message`.
    pub fn context(self, context: impl fmt::Display) -> Self {
        self.map(|message| format!("{context}: {message}"))
    }

    /// The same error in other words.
    pub(crate) fn map(self, f: impl FnOnce(String) -> String) -> Self {
        match self {
            Error::User(m) => Error::User(f(m)),
            Error::System(m) => Error::System(f(m)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::User(m) | Error::System(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for Error {}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// What `f` gives, or what it panicked with, of which nothing is printed.
pub(crate) fn without_panic<R>(f: impl FnOnce() -> R) -> std::result::Result<R, String> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    QUIET.set(false);
    result.map_err(|panic| one_line(panic_message(&*panic)))
}

/// The text with its lines and spaces made one each.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Turns an I/O error on `path` into an [`Error`]: a missing file, refused access, a full disk or text that is none is the user's to mend.
pub fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| {
        let message = format!("{}: {e}", path.display());
        match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Error::User(format!("{message}; make room there or name a folder on another disk"))
            }
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidData => Error::User(message),
            _ => Error::System(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_mends_a_full_disk_and_text_that_is_none() {
        let of = |kind: ErrorKind| io(std::path::Path::new("f"))(kind.into()).exit_code();
        let kinds = [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem, ErrorKind::InvalidData, ErrorKind::BrokenPipe];
        assert_eq!(kinds.map(of), [2, 2, 2, 1]);
    }

    #[test]
    fn a_panic_is_quiet_and_kept() {
        assert_eq!(without_panic(|| 3), Ok(3));
        assert_eq!(without_panic(|| panic!("lost:\n  {}", 7)), Err::<(), _>("lost: 7".to_string()));
    }
}
