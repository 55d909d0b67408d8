//! Translates errors of Redis into kinds with advice.

use std::fmt::{self, Write};

use lock_core::{Error, ErrorKind, backend::own_limit};
use redis::{RedisError, ServerErrorKind};

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

const NO_RIGHT: &str = "the Redis user lacks a permission; the README of lock-redis lists the ACL rules";

/// The known error replies: code or part of the text, kind, whether a retry can help, and advice.
const ANSWERS: &[(&str, ErrorKind, bool, &str)] = &[
    (
        "READONLY",
        ErrorKind::Full,
        true,
        "this Redis is a read-only replica; connect to the primary, or use redis+sentinel:// to find it",
    ),
    ("LOADING", ErrorKind::Unavailable, true, "Redis is still loading its data; try again in a moment"),
    (
        "OOM",
        ErrorKind::Full,
        true,
        "Redis has reached its maxmemory; raise the limit or free memory (locks need maxmemory-policy noeviction)",
    ),
    (
        "MISCONF",
        ErrorKind::Full,
        true,
        "Redis refuses writes because it cannot save to disk; check its log and its disk",
    ),
    (
        "NOAUTH",
        ErrorKind::PermissionDenied,
        false,
        "Redis requires a password; add user and password to the configuration",
    ),
    ("WRONGPASS", ErrorKind::PermissionDenied, false, "Redis rejected this user and password; check both"),
    ("NOPERM", ErrorKind::PermissionDenied, false, NO_RIGHT),
    // Both are about a command in a script: Redis 7.2 and Valkey, then older servers.
    ("ACL failure", ErrorKind::PermissionDenied, false, NO_RIGHT),
    ("user executing the script", ErrorKind::PermissionDenied, false, NO_RIGHT),
    (
        "CLUSTERDOWN",
        ErrorKind::Unavailable,
        true,
        "the Redis cluster is down: some slots have no primary; check CLUSTER INFO",
    ),
    (
        "MASTERDOWN",
        ErrorKind::Unavailable,
        true,
        "this Redis is a replica that has lost its primary; wait for the failover",
    ),
    (
        "UNBLOCKED",
        ErrorKind::Unavailable,
        true,
        "this Redis was demoted while waiting for its replicas to confirm; wait for the failover",
    ),
    (
        "NOREPLICAS",
        ErrorKind::Unavailable,
        true,
        "Redis refuses writes because too few replicas are connected; check min-replicas-to-write",
    ),
    (
        "TRYAGAIN",
        ErrorKind::Unavailable,
        true,
        "the slot of this lock is being moved between cluster nodes; try again in a moment",
    ),
    (
        "MOVED",
        ErrorKind::Unavailable,
        true,
        "this Redis is a cluster node, and another node owns the slot of this lock; use redis+cluster://",
    ),
    (
        "ASK",
        ErrorKind::Unavailable,
        true,
        "the slot of this lock is being moved between cluster nodes; try again in a moment",
    ),
    (
        // Not by its code, which Redis 6 shows within the text if a command of a script fails.
        "wrong kind of value",
        ErrorKind::Corrupt,
        false,
        "another client has written to a key beside the lock; compare TYPE of all keys that begin with that of the \
         lock, and delete the wrong one",
    ),
    (
        "CROSSSLOT",
        ErrorKind::Config,
        false,
        "the keys of this lock are in different slots; do not use this compat mode on a cluster",
    ),
    (
        "BUSY",
        ErrorKind::Throttled,
        true,
        "Redis is busy with a long script; try again, and find the script with SLOWLOG",
    ),
    (
        "max number of clients",
        ErrorKind::Throttled,
        true,
        "Redis has reached its connection limit; raise maxclients or close idle connections",
    ),
    (
        "DENIED",
        ErrorKind::PermissionDenied,
        false,
        "Redis is in protected mode, and takes clients of its own machine only; set a password there (requirepass)",
    ),
    (
        "unknown command",
        ErrorKind::Unsupported,
        false,
        "this server lacks a command that locks need; use Redis 6.0 or Valkey 7.2, or later",
    ),
    (
        "NOPROTO",
        ErrorKind::Unsupported,
        false,
        "this server does not support RESP3; use Redis 6.0 or Valkey 7.2, or later",
    ),
    (
        "DB index is out of range",
        ErrorKind::Config,
        false,
        "this Redis has no database with the configured number; use a lower number",
    ),
    (
        "SELECT is not allowed",
        ErrorKind::Config,
        false,
        "this Redis has only database 0; remove the number from the configuration",
    ),
];

/// Converts to an [`Error`] with advice, which is ambiguous unless Redis certainly did nothing.
pub(crate) fn translate(error: RedisError, phase: Phase) -> Error {
    let (kind, retryable, message) = classify(&error, phase);
    // An invalid reply proves nothing.
    let invalid = matches!(error.kind(), redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType);
    let unanswered = error.is_io_error() || invalid || kind == ErrorKind::Timeout || is_in_script(&error, retryable);
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

fn classify(error: &RedisError, phase: Phase) -> (ErrorKind, bool, String) {
    let text = error.to_string();
    let known = ANSWERS.iter().find(|(code_or_text, ..)| {
        let is_code = code_or_text.bytes().all(|b| b.is_ascii_uppercase());
        if is_code { says(error, code_or_text) } else { text.contains(code_or_text) }
    });
    if let Some((_, kind, retryable, advice)) = known {
        return (*kind, *retryable, (*advice).into());
    }
    match error.kind() {
        _ if error.is_timeout() => (ErrorKind::Timeout, true, no_answer(phase).into()),
        _ if error.is_connection_refusal() => {
            let advice = "Redis refused the connection; check that it is running, and check host and port";
            (ErrorKind::Unavailable, true, advice.into())
        }
        redis::ErrorKind::AuthenticationFailed => {
            (ErrorKind::PermissionDenied, false, "Redis rejected this user and password; check both".into())
        }
        redis::ErrorKind::RESP3NotSupported => (
            ErrorKind::Unsupported,
            false,
            "this server does not support RESP3; use Redis 6.0 or Valkey 7.2, or later".into(),
        ),
        redis::ErrorKind::InvalidClientConfig | redis::ErrorKind::EmptySentinelList => {
            (ErrorKind::Config, false, "these connection settings are invalid".into())
        }
        redis::ErrorKind::MasterNameNotFoundBySentinel => {
            let advice =
                "no reachable sentinel knows a primary of this service; check the names, or wait for the failover";
            (ErrorKind::Unavailable, true, advice.into())
        }
        redis::ErrorKind::ClusterConnectionNotFound => (
            ErrorKind::Unavailable,
            true,
            "the cluster node that owns the slot of this lock is unreachable; check CLUSTER NODES".into(),
        ),
        redis::ErrorKind::Io if text.contains("CaUsedAsEndEntity") => {
            let advice = "the server's certificate is self-signed and marked as an authority (CA:TRUE); make it again \
                          with basicConstraints=CA:FALSE, or let an authority sign a certificate for the server";
            (ErrorKind::Config, false, advice.into())
        }
        redis::ErrorKind::Io if is_tls(&text) => {
            let advice =
                "TLS handshake failed; check the certificate authority (ca), the host name and the client certificate";
            (ErrorKind::Config, false, advice.into())
        }
        redis::ErrorKind::Io => match own_limit(error) {
            Some(advice) => (ErrorKind::Limit, true, advice.into()),
            None => (ErrorKind::Unavailable, true, broken(phase).into()),
        },
        redis::ErrorKind::Server(ServerErrorKind::ResponseError) => {
            (ErrorKind::Other, false, "Redis returned an error".into())
        }
        redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType => {
            let advice = "the reply is not in the Redis protocol; check that host and port are those of a Redis server";
            // A server that logged this client in speaks the protocol: the reply was damaged.
            match phase {
                Phase::Connect => (ErrorKind::Config, false, advice.into()),
                _ => (ErrorKind::Unavailable, true, advice.into()),
            }
        }
        _ => (ErrorKind::Other, false, "the request to Redis failed".into()),
    }
}

/// Returns whether a script failed at one of its commands. Those before it may have acquired the
/// lock.
///
/// A server that is full or read-only refuses the first command that writes. Such errors are
/// `retryable`.
fn is_in_script(error: &RedisError, retryable: bool) -> bool {
    let is_reply = matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension);
    is_reply && !retryable && error.to_string().contains("script")
}

/// Whether the server replied with `code`. Redis 6 wraps errors inside a script in an ERR, so the
/// text is searched too.
pub(crate) fn says(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.to_string().contains(&format!("-{code} "))
}

fn no_answer(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "connecting to Redis timed out",
        Phase::Request | Phase::RepeatedRequest => "Redis did not answer in time",
    }
}

fn broken(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "Redis cannot be reached; check host, port and network",
        Phase::Request | Phase::RepeatedRequest => "the connection to Redis was lost before the reply",
    }
}

fn is_tls(text: &str) -> bool {
    ["certificate", "InvalidContentType", "HandshakeFailure", "received fatal alert", "peer is incompatible"]
        .iter()
        .any(|mark| text.contains(mark))
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
            ("ERR something new", ErrorKind::Other, false),
        ] {
            let error = translate(server(line), Phase::Request);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{line}");
            assert!(!error.is_ambiguous(), "{line}");
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
