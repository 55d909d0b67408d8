//! Translates errors of PostgreSQL into kinds with advice.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
};

use lock_core::{Error, ErrorKind, backend::own_limit};
use tokio_postgres::error::{DbError, SqlState};

/// Whether the request had been sent when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// While connecting or logging in, so no lock was changed.
    Connect,
    /// After the request was sent.
    Request,
}

/// The known error replies: the beginning of the SQLSTATE, kind, whether a retry can help, whether
/// the request may have taken effect, and advice. The first match counts.
const ANSWERS: &[(&str, ErrorKind, bool, bool, &str)] = &[
    (
        "25006",
        ErrorKind::Config,
        false,
        false,
        "this PostgreSQL accepts no writes: it is a standby, or default_transaction_read_only is on; connect to the \
         primary, or name all servers (postgres://HOST1,HOST2/DB) to find it",
    ),
    (
        "40003",
        ErrorKind::Unavailable,
        true,
        true,
        "the server cannot tell whether the statement took effect; see its log",
    ),
    (
        "40",
        ErrorKind::Unavailable,
        true,
        false,
        "PostgreSQL rolled the statement back because of a concurrent one; nothing was done",
    ),
    (
        "55P03",
        ErrorKind::Unavailable,
        true,
        false,
        "another transaction keeps this lock's row, or its table, locked; find it in pg_locks and end it",
    ),
    (
        "57014",
        ErrorKind::Timeout,
        true,
        false,
        "PostgreSQL cancelled the statement, by statement_timeout or on request; nothing was done",
    ),
    ("57P03", ErrorKind::Unavailable, true, false, "PostgreSQL is starting up or shutting down; try again in a moment"),
    ("57P", ErrorKind::Unavailable, true, true, "PostgreSQL ended this connection; it is shutting down, or restarts"),
    ("28", ErrorKind::PermissionDenied, false, false, "PostgreSQL rejected this user and password; check both"),
    (
        "42501",
        ErrorKind::PermissionDenied,
        false,
        false,
        "the PostgreSQL user lacks a right on the table of the locks; grant select, insert, update and delete on it",
    ),
    (
        "42P01",
        ErrorKind::StoreNotReady,
        false,
        false,
        "the table of the locks does not exist; run onelock init to create it, check the option table, or restart this \
         process if the table was moved",
    ),
    (
        "42703",
        ErrorKind::StoreNotReady,
        false,
        false,
        "the table has other columns than a table of locks; choose another one by the option table, and run onelock \
         init",
    ),
    (
        "428",
        ErrorKind::StoreNotReady,
        false,
        false,
        "the table has columns of other types than a table of locks; choose another one by the option table, and run \
         onelock init",
    ),
    (
        "42P10",
        ErrorKind::StoreNotReady,
        false,
        false,
        "the table has no primary key on the name of the lock; choose another one by the option table, and run \
         onelock init",
    ),
    (
        "3F000",
        ErrorKind::StoreNotReady,
        false,
        false,
        "the schema of the table does not exist; create it, or check the option table",
    ),
    ("3D000", ErrorKind::Config, false, false, "there is no such database; check the path of the config string"),
    (
        "4260",
        ErrorKind::Unsupported,
        false,
        false,
        "this server does not understand the statements of locks; use PostgreSQL 12 or later",
    ),
    (
        "53300",
        ErrorKind::Throttled,
        true,
        false,
        "PostgreSQL has no free connection; raise max_connections, or use a pooler",
    ),
    ("53", ErrorKind::Full, true, false, "PostgreSQL is out of disk or memory; free some"),
    (
        "22021",
        ErrorKind::Config,
        false,
        false,
        "the database's encoding lacks a character of the owner or of the operator's name; use a database in UTF8",
    ),
    (
        "22P05",
        ErrorKind::Config,
        false,
        false,
        "the database's encoding lacks a character of the owner or of the operator's name; use a database in UTF8",
    ),
    ("08", ErrorKind::Unavailable, true, true, "the connection to PostgreSQL broke"),
    // Poolers report a lost server so, also after it has committed.
    ("58", ErrorKind::Other, true, true, INTERNAL_ERROR),
    ("XX", ErrorKind::Other, true, true, INTERNAL_ERROR),
];

const INTERNAL_ERROR: &str = "PostgreSQL, or a pooler before it, had an internal error; see its log";

/// Converts to an [`Error`] with advice, which is ambiguous unless PostgreSQL certainly did
/// nothing.
pub(crate) fn translate(error: tokio_postgres::Error, phase: Phase) -> Error {
    let (kind, retryable, unsure, message) = classify(&error, phase);
    let ambiguous = phase == Phase::Request && unsure;
    Error::new(kind, message).with_retryable(retryable).with_ambiguous(ambiguous).with_source(Cause(error))
}

/// Whether `error` says that this connection is of no use any more, although it may be open.
pub(crate) fn ends_connection(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| {
        *code == SqlState::READ_ONLY_SQL_TRANSACTION || ["57P", "08"].iter().any(|class| code.code().starts_with(class))
    })
}

fn classify(error: &tokio_postgres::Error, phase: Phase) -> (ErrorKind, bool, bool, String) {
    if matches!(phase, Phase::Connect) && error.as_db_error().is_some_and(has_too_many_clients) {
        return (ErrorKind::Throttled, true, false, TOO_MANY_CLIENTS.into());
    }
    if let Some(code) = error.code() {
        let known = ANSWERS.iter().find(|(prefix, ..)| code.code().starts_with(prefix));
        return match known {
            Some((_, kind, retryable, unsure, advice)) => (*kind, *retryable, *unsure, (*advice).into()),
            // A pooler may report a lost server by a code of its own.
            None => (
                ErrorKind::Other,
                false,
                true,
                "PostgreSQL, or a pooler before it, returned an error; see its log".into(),
            ),
        };
    }
    if let Some(advice) = own_limit(error).filter(|_| matches!(phase, Phase::Connect)) {
        return (ErrorKind::Limit, true, false, advice.into());
    }
    // The kinds of tokio-postgres are private, so their texts tell them apart.
    let (kind, retryable, advice) = match (error.to_string().as_str(), phase) {
        ("error performing TLS handshake", _) if !broke(error) => {
            (ErrorKind::Config, false, "TLS handshake failed; check sslmode, sslrootcert and the host name")
        }
        ("invalid configuration" | "authentication error", _) => (
            ErrorKind::PermissionDenied,
            false,
            "PostgreSQL requires a password or another login; set password_file, PGPASSWORD or ~/.pgpass",
        ),
        ("error connecting to server", _) if is_io(error, std::io::ErrorKind::PermissionDenied) => (
            ErrorKind::Unavailable,
            true,
            "none of the servers accepts writes; a failover may be under way, or all are standbys",
        ),
        ("error connecting to server", _) if is_io(error, std::io::ErrorKind::TimedOut) => {
            (ErrorKind::Timeout, true, "connecting to PostgreSQL timed out")
        }
        ("error connecting to server", _) if is_io(error, std::io::ErrorKind::ConnectionRefused) => (
            ErrorKind::Unavailable,
            true,
            "PostgreSQL refused the connection; check that it is running, and check host and port",
        ),
        ("error parsing response from server" | "unexpected message from server", Phase::Connect) => (
            ErrorKind::Config,
            false,
            "the reply is not in the PostgreSQL protocol; check that host and port are those of a PostgreSQL server",
        ),
        ("error parsing response from server" | "unexpected message from server", Phase::Request) => {
            (ErrorKind::Unavailable, true, "the reply is not in the PostgreSQL protocol")
        }
        (_, Phase::Connect) => {
            (ErrorKind::Unavailable, true, "PostgreSQL cannot be reached; check host, port and network")
        }
        (_, Phase::Request) => (ErrorKind::Unavailable, true, "the connection to PostgreSQL was lost before the reply"),
    };
    (kind, retryable, true, advice.into())
}

/// What to do about a pooler that takes no more clients.
const TOO_MANY_CLIENTS: &str = "the pooler has no free connection for clients; raise its limit (max_client_conn)";

/// Whether PgBouncer refused this client because it has too many. It has no SQLSTATE for that.
fn has_too_many_clients(error: &DbError) -> bool {
    error.message().contains("max_client_conn")
}

/// Whether the connection broke, which says nothing about the settings. The errors of rustls come
/// as invalid data.
fn broke(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() != std::io::ErrorKind::InvalidData)
}

fn is_io(error: &tokio_postgres::Error, kind: std::io::ErrorKind) -> bool {
    error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).is_some_and(|io| io.kind() == kind)
}

/// The error of a request that got no reply within the timeout of the store.
pub(crate) fn no_answer() -> Error {
    Error::new(ErrorKind::Timeout, "PostgreSQL did not answer in time")
}

/// The error of a connection that was not ready within the timeout of the store.
pub(crate) fn connect_timed_out() -> Error {
    Error::new(ErrorKind::Timeout, "connecting to PostgreSQL timed out").with_ambiguous(false)
}

/// The error of a statement whose answer shows that another one came in between.
pub(crate) fn overtaken() -> Error {
    let message = "another request of the same acquisition came in between; try again";
    Error::new(ErrorKind::Unavailable, message).with_ambiguous(true)
}

/// The error of an acquire whose lease id was released before it arrived.
pub(crate) fn released_before() -> Error {
    Error::new(ErrorKind::Other, "this acquire reached PostgreSQL after its lease id had been released")
}

/// The error of an answer without a needed value.
pub(crate) fn unreadable(error: tokio_postgres::Error) -> Error {
    let message = "the row of this lock has a value that cannot be read; check which client writes to the table";
    Error::new(ErrorKind::Corrupt, message).with_ambiguous(true).with_source(Cause(error))
}

/// The error of a lock that no synchronous standby would confirm.
pub(crate) fn not_synchronous() -> Error {
    let message = "replicas=sync, but this PostgreSQL has no synchronous standbys; set synchronous_standby_names, or \
                   use replicas=any";
    Error::new(ErrorKind::StoreNotReady, message).with_ambiguous(false)
}

/// The error of a commit whose wait for a standby was cancelled. The commit has taken effect here.
pub(crate) fn unconfirmed() -> Error {
    let message = "the wait for the synchronous standby was cancelled, so the lock may be on one server only";
    Error::new(ErrorKind::Unavailable, message).with_ambiguous(true)
}

/// The most characters of a server's text in an error.
const LONGEST_CAUSE: usize = 300;

/// An error of tokio-postgres as one line, because a server, or whatever listens at its port,
/// chooses the text. It has no source: the line contains all of them.
#[derive(Debug)]
struct Cause(tokio_postgres::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = match self.0.as_db_error() {
            // Neither detail nor hint, because these contain values.
            Some(error) => format!("{} (SQLSTATE {})", shown(error), error.code().code()),
            None => self.0.to_string(),
        };
        let mut source = self.0.source().filter(|_| self.0.as_db_error().is_none());
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        for c in text.chars().take(LONGEST_CAUSE) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        if text.chars().nth(LONGEST_CAUSE).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

fn shown(error: &DbError) -> String {
    format!("{}: {}", error.severity(), error.message())
}

impl std::error::Error for Cause {}
