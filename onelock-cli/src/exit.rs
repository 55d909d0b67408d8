//! The exit codes of `onelock`, and the failures that lead to them.

use std::{error::Error as StdError, fmt, io};

use lock_core::{Error, ErrorKind, backend::own_limit};

use crate::one_line::one_line;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) code: &'static str,
    pub(crate) meaning: &'static str,
}

const fn row(code: &'static str, meaning: &'static str) -> Row {
    Row { code, meaning }
}

/// The exit codes of `onelock run`. Tests compare this table with the help and the README.
pub(crate) const TABLE: &[Row] = &[
    row("0-255", "the command's own exit status"),
    row("128+N", "signal N killed the command"),
    row(
        "1",
        "the lock could not be acquired: another client holds it (another code with -E); `doctor`, `torture`: the \
         store is unfit",
    ),
    row(
        "64",
        "invalid usage: an option, the lock name or the command line is wrong, or the command already runs under \
         this lock",
    ),
    row("65", "the store's record of the lock is corrupt; `list`: an entry could not be read"),
    row("69", "the store is unavailable, too slow or over its limits"),
    row("70", "an internal error"),
    row("71", "the operating system refused: out of processes, memory or descriptors"),
    row("73", "the directory or table of the locks is missing, full or read-only"),
    row("75", "the lock was lost; the command was stopped"),
    row("77", "the store denied permission"),
    row("78", "the configuration is wrong, or the store does not support the request"),
    row("126", "the command was found but could not be executed; the lock was released"),
    row("127", "the command was not found; the lock was released"),
];

/// Also the answer of `status` for a free lock, of `break` for a changed lock, and of `doctor` for
/// an unfit store.
pub(crate) const NOT_ACQUIRED: u8 = 1;
pub(crate) const USAGE: u8 = 64;
pub(crate) const CORRUPT: u8 = 65;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const INTERNAL: u8 = 70;
pub(crate) const OS: u8 = 71;
pub(crate) const CANNOT_CREATE: u8 = 73;
pub(crate) const LOST: u8 = 75;
pub(crate) const NO_PERMISSION: u8 = 77;
pub(crate) const CONFIG: u8 = 78;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The way the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this exit code.
    Code(u8),
    /// By this signal, so that the calling process sees how the command ended.
    Signal(i32),
}

/// Something failed: a message for standard error and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A system call failed while doing `what`.
    pub(crate) fn os(what: &str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        // Without `remedy`: EAGAIN of a read or a write is no limit of processes.
        let advice = own_limit(&error).map(|advice| format!("; {advice}")).unwrap_or_default();
        Self::new(OS, format!("{what} failed{advice}")).with_source(error)
    }

    /// The system refused to start `what`: a process or a thread.
    pub(crate) fn start(what: &str, error: &io::Error) -> Self {
        Self::new(OS, format!("cannot start {what}: {error}{}", remedy(error)))
    }

    /// `command` could not be started.
    pub(crate) fn spawn(command: &std::ffi::OsStr, error: &io::Error) -> Self {
        let code = match error.raw_os_error() {
            Some(libc::ENOENT) => NOT_FOUND,
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => OS,
            _ => NOT_EXECUTABLE,
        };
        let why = if code == NOT_FOUND { "was not found" } else { "could not be executed" };
        let command = command.display().to_string();
        Self::new(code, format!("the command \"{}\" {why}: {error}{}", command.escape_debug(), remedy(error)))
    }
}

/// Returns what to do when the system refused a process or a thread because of `error`.
fn remedy(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EAGAIN) => "raise the limit of processes (ulimit -u, TasksMax= of the unit, or pids.max)",
        Some(libc::ENOMEM) => "free memory, or raise its limit",
        _ => own_limit(error).unwrap_or_default(),
    };
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // A missing address or port says that the store cannot be reached.
        let limit = own_limit(&error).filter(|advice| advice.contains("files and sockets"));
        let code = match error.kind() {
            _ if limit.is_some() => OS,
            ErrorKind::Config | ErrorKind::Unsupported => CONFIG,
            ErrorKind::PermissionDenied => NO_PERMISSION,
            ErrorKind::StoreNotReady | ErrorKind::Full => CANNOT_CREATE,
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled | ErrorKind::Limit => UNAVAILABLE,
            ErrorKind::Corrupt => CORRUPT,
            ErrorKind::Lost => LOST,
            _ => INTERNAL,
        };
        // Such as a file of certificates that could not be opened. Stores name their own limits.
        let unnamed = limit.filter(|_| error.kind() != ErrorKind::Limit);
        let message = unnamed.map_or_else(|| error.to_string(), |advice| format!("{error}; {advice}"));
        Self::new(code, message).with_cause_of(error)
    }
}

impl Failure {
    /// Adds the causes of `error`, whose own message this failure already has.
    fn with_cause_of(self, error: Error) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        if chain.is_empty() { self } else { self.with_source(chain.join(": ")) }
    }
}

impl fmt::Display for Failure {
    /// Writes one line: the message and the chain of causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.message.clone();
        let mut source = self.source.as_deref().map(|s| s as &(dyn StdError + 'static));
        while let Some(cause) = source {
            line += &format!(": {cause}");
            source = cause.source();
        }
        f.write_str(&one_line(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_table_of_exit_codes() {
        let readme = include_str!("../README.md");
        for Row { code, meaning } in TABLE {
            let line = format!("| {code} | {meaning} |");
            assert!(readme.contains(&line), "README.md lacks the line {line}");
        }
    }

    #[test]
    fn a_missing_descriptor_is_no_wrong_setting() {
        let error = Error::new(ErrorKind::Config, "cannot read /etc/ca.pem, the file of option ca");
        let failure = Failure::from(error.with_source(io::Error::from_raw_os_error(libc::EMFILE)));
        assert_eq!(failure.code, OS, "{failure}");
        assert!(
            failure.to_string().contains("/etc/ca.pem") && failure.to_string().contains("(ulimit -n)"),
            "{failure}"
        );
    }

    #[test]
    fn every_exit_code_is_in_the_table() {
        let used = [
            NOT_ACQUIRED,
            USAGE,
            CORRUPT,
            UNAVAILABLE,
            INTERNAL,
            OS,
            CANNOT_CREATE,
            LOST,
            NO_PERMISSION,
            CONFIG,
            NOT_EXECUTABLE,
            NOT_FOUND,
        ];
        for code in used {
            assert!(TABLE.iter().any(|row| row.code == code.to_string()), "{code}");
        }
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let error = Error::new(ErrorKind::Full, "cannot write").with_source(io::Error::from_raw_os_error(libc::ENOSPC));
        let failure = Failure::from(error);
        assert_eq!(failure.code, CANNOT_CREATE);
        assert_eq!(failure.to_string(), "cannot write: No space left on device (os error 28)");
    }
}
