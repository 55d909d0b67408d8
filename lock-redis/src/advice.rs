//! Finds the kind of an error of Redis, and what to do about it.

use lock_core::{ErrorKind, backend::own_limit};
use redis::{RedisError, ServerErrorKind};

use crate::error::Phase;

const NO_RIGHT: &str = "the Redis user lacks a permission; the README of lock-redis lists the ACL rules";
const REJECTED: &str = "Redis rejected this user and password; check both";
const NO_RESP3: &str = "this server does not support RESP3; use Redis 6.0 or Valkey 7.2, or later";

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
    ("WRONGPASS", ErrorKind::PermissionDenied, false, REJECTED),
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
    ("NOPROTO", ErrorKind::Unsupported, false, NO_RESP3),
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

/// Returns the kind of an error, whether a retry can help, and what happened and what to do.
pub(crate) fn classify(error: &RedisError, phase: Phase) -> (ErrorKind, bool, String) {
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
        redis::ErrorKind::AuthenticationFailed => (ErrorKind::PermissionDenied, false, REJECTED.into()),
        redis::ErrorKind::RESP3NotSupported => (ErrorKind::Unsupported, false, NO_RESP3.into()),
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
