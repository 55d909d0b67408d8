//! Translates errors of Redis, and tells whether the request had an effect.

use std::fmt::{self, Write};

use lock_core::{Error, ErrorKind};
use redis::RedisError;

use crate::advice::classify;

/// Whether the request had been sent when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// While connecting or logging in, so no lock was changed.
    Connect,
    /// After the request was sent.
    Request,
    /// After the request was sent, perhaps several times: a cluster client repeats unanswered
    /// requests by itself.
    RepeatedRequest,
}

/// Converts to an [`Error`] with advice, which is ambiguous unless Redis certainly did nothing.
pub(crate) fn translate(error: RedisError, phase: Phase) -> Error {
    let (kind, retryable, message) = classify(&error, phase);
    // An invalid reply proves nothing.
    let invalid = matches!(error.kind(), redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType);
    // A proxy reports a lost server by a text of its own, also after the script has run.
    let unknown = kind == ErrorKind::Other;
    let unanswered =
        error.is_io_error() || invalid || unknown || kind == ErrorKind::Timeout || is_in_script(&error, retryable);
    let unsure = match phase {
        Phase::Connect => false,
        Phase::Request => unanswered,
        // The reply to the last try says nothing about earlier ones.
        Phase::RepeatedRequest => unanswered || retryable,
    };
    let translated = Error::new(kind, message).with_retryable(retryable).with_ambiguous(unsure);
    // A server echoes the arguments of an unknown command, and those of the first command are user
    // and password.
    if phase == Phase::Connect && error.to_string().contains("unknown command") {
        return translated;
    }
    translated.with_source(Cause(error))
}

/// The most characters of a server's text in an error.
const LONGEST_CAUSE: usize = 300;

/// An error of redis-rs as one line, because a server, or whatever listens at its port, chooses the
/// text.
///
/// It has no source: the text of redis-rs repeats that of its source.
#[derive(Debug)]
pub(crate) struct Cause(pub(crate) RedisError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let line = lines.join("; ");
        for c in line.chars().take(LONGEST_CAUSE) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        if line.chars().nth(LONGEST_CAUSE).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

impl std::error::Error for Cause {}

/// Returns whether a script failed at one of its commands. Those before it may have acquired the
/// lock.
///
/// A server that is full or read-only refuses the first command that writes. Such errors are
/// `retryable`.
fn is_in_script(error: &RedisError, retryable: bool) -> bool {
    let is_reply = matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension);
    is_reply && !retryable && error.to_string().contains("script")
}

/// The error for a reply to `command` that Redis and its scripts never give.
pub(crate) fn unexpected(command: &str, answer: &redis::Value) -> Error {
    // Shows only the shape, because the values may be private.
    let shape = match answer {
        redis::Value::Array(items) => format!("an array of length {}", items.len()),
        redis::Value::Nil => "nil".into(),
        _ => "a single value".into(),
    };
    let message = format!("unexpected reply to {command}: {shape}; check for a proxy between this client and Redis");
    Error::new(ErrorKind::Corrupt, message).with_ambiguous(true)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Too many open files.
    const EMFILE: i32 = 24;

    fn server(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn server_errors_have_a_kind_and_are_not_ambiguous() {
        for (line, kind, retryable) in [
            ("READONLY You can't write against a read only replica.", ErrorKind::Full, true),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, true),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full, true),
            ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", ErrorKind::Full, true),
            ("NOAUTH Authentication required.", ErrorKind::PermissionDenied, false),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::PermissionDenied, false),
            ("NOPERM User x has no permissions to run the 'evalsha' command", ErrorKind::PermissionDenied, false),
            ("CLUSTERDOWN The cluster is down", ErrorKind::Unavailable, true),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Unavailable, true),
            ("MISCONF Errors writing to the AOF file", ErrorKind::Full, true),
            ("ERR max number of clients reached", ErrorKind::Throttled, true),
            ("DENIED Redis is running in protected mode", ErrorKind::PermissionDenied, false),
            ("ERR unknown command 'HELLO'", ErrorKind::Unsupported, false),
            ("UNBLOCKED force unblock from blocking operation, instance state changed", ErrorKind::Unavailable, true),
        ] {
            let error = translate(server(line), Phase::Request);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{line}");
            assert!(!error.is_ambiguous(), "{line}");
        }
    }

    #[test]
    fn an_unknown_reply_leaves_open_whether_it_was_done() {
        // Of proxies whose server went away after the request was sent, and of no known server.
        for line in ["ERR Connection timed out", "upstream failure", "ERR something new"] {
            let error = translate(server(line), Phase::Request);
            assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Other, true), "{line}");
            assert!(!translate(server(line), Phase::Connect).is_ambiguous(), "{line}");
        }
    }

    fn is_of_a_script(line: &str, kind: ErrorKind) {
        let error = translate(server(line), Phase::Request);
        assert_eq!((error.kind(), error.is_retryable()), (kind, false), "{line}");
        assert!(error.is_ambiguous(), "{line}: the commands before it had their effect");
    }

    #[test]
    fn missing_rights_of_a_script_are_permission_errors() {
        for line in [
            // Redis 6.
            "ERR Error running script (call to f_1): @user_script:6: @user_script: 6: The user executing the script \
             can't run this command or subcommand",
            "ERR Error running script (call to f_1): @user_script:6: @user_script: 6: The user executing the script \
             can't access at least one of the keys mentioned in the command arguments",
            // Redis 7.0.
            "ERR The user executing the script can't access at least one of the keys mentioned in the command \
             arguments script: 0a1b, on @user_script:6.",
            "ERR The user executing the script can't publish to the channel mentioned in the command script: 0a1b",
            // Redis 7.2 and 8, Valkey.
            "ERR ACL failure in script: User app has no permissions to access the 'onelock:{job}' key script: 0a1b",
            "ERR ACL failure in script: No permissions to access a key script: on @user_script:1.",
        ] {
            is_of_a_script(line, ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_key_of_the_wrong_type_is_corrupt_and_ambiguous() {
        for line in [
            // Redis 6.
            "ERR Error running script (call to f_1): @user_script:6: WRONGTYPE Operation against a key holding the \
             wrong kind of value",
            "WRONGTYPE Operation against a key holding the wrong kind of value script: 0a1b, on @user_script:38.",
        ] {
            is_of_a_script(line, ErrorKind::Corrupt);
        }
    }

    #[test]
    fn credentials_echoed_by_the_server_are_not_printed() {
        let line = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'etl' 'hunter2'";
        let error = translate(server(line), Phase::Connect);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!format!("{error} {error:?}").contains("hunter2") && std::error::Error::source(&error).is_none());
    }

    #[test]
    fn only_a_sent_request_is_ambiguous() {
        let io = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        let refused = translate(io(io::ErrorKind::ConnectionRefused), Phase::Connect);
        assert_eq!((refused.kind(), refused.is_ambiguous()), (ErrorKind::Unavailable, false));
        let reset = translate(io(io::ErrorKind::ConnectionReset), Phase::Request);
        assert_eq!((reset.kind(), reset.is_ambiguous()), (ErrorKind::Unavailable, true));
        let late = translate(io(io::ErrorKind::TimedOut), Phase::Request);
        assert_eq!((late.kind(), late.is_ambiguous()), (ErrorKind::Timeout, true));
        assert!(!translate(io(io::ErrorKind::TimedOut), Phase::Connect).is_ambiguous());
        let full = translate(io::Error::from_raw_os_error(EMFILE).into(), Phase::Connect);
        assert_eq!((full.kind(), full.is_retryable(), full.is_ambiguous()), (ErrorKind::Limit, true, false), "{full}");
        let last = || server("CLUSTERDOWN The cluster is down");
        assert!(!translate(last(), Phase::Request).is_ambiguous());
        assert!(translate(last(), Phase::RepeatedRequest).is_ambiguous(), "an earlier try may have got no answer");
    }
}
