//! Converts replies and failures, with advice.

use std::error::Error as StdError;

use http::StatusCode;
use lock_core::{
    Error, ErrorKind,
    backend::{causes, one_line, own_limit},
};
use object_store::client::{HttpError, HttpErrorKind};

use crate::{
    config::ObjectConfig,
    http::{Exchange, Reply},
};

/// Returns whether a reply of status 404 says that there is no such object, and not that the bucket
/// is missing or that the server is none of an object store.
pub(crate) fn is_missing_object(reply: &Reply) -> bool {
    matches!(&*reply.code(), "NoSuchKey" | "BlobNotFound" | "ResourceNotFound")
}

/// Returns whether a conditional request was refused because its condition did not hold, or because
/// another conditional request was under way. In both cases nothing was done.
pub(crate) fn is_failed_condition(reply: &Reply) -> bool {
    let code = reply.code();
    match reply.status {
        // Azure refuses writes to a blob with a lease by 412 too.
        StatusCode::PRECONDITION_FAILED => !code.starts_with("Lease"),
        StatusCode::NOT_MODIFIED => true,
        StatusCode::CONFLICT => matches!(
            &*code,
            "ConditionalRequestConflict" | "OperationAborted" | "BlobAlreadyExists" | "PreconditionFailed"
        ),
        // S3 says so if the object of If-Match is gone.
        StatusCode::NOT_FOUND => is_missing_object(reply),
        _ => false,
    }
}

/// Converts a reply that is not an answer.
pub(crate) fn refused(reply: &Reply, config: &ObjectConfig) -> Error {
    let status = reply.status.as_u16();
    let (code, message) = (one_line(&reply.code()), one_line(&reply.element("Message")));
    let (kind, is_ambiguous, text) = match (status, &*code) {
        (404, "NoSuchBucket" | "ContainerNotFound") => (
            ErrorKind::StoreNotReady,
            false,
            format!(
                "there is no {} \"{}\" here; create it, or correct its name and region",
                config.container(),
                config.bucket
            ),
        ),
        (403, "RequestTimeTooSkewed") => (
            ErrorKind::PermissionDenied,
            false,
            "the store refuses signatures of this machine, whose clock is too far off; synchronise it with NTP".into(),
        ),
        (401 | 403, _) => (
            ErrorKind::PermissionDenied,
            false,
            format!(
                "access to {} \"{}\" is denied ({code}); grant the rights in docs/object-stores.md, which include \
                 listing, and check the credentials",
                config.container(),
                config.bucket
            ),
        ),
        (301 | 307 | 308, _) => (
            ErrorKind::Config,
            false,
            match reply.header("x-amz-bucket-region") {
                Some(region) => {
                    format!("the bucket \"{}\" is in another region; set region={}", config.bucket, one_line(region))
                }
                None => format!("the server answered with a redirect (status {status}); check endpoint and region"),
            },
        ),
        (429, _) | (503, "SlowDown" | "ServerBusy") => (
            ErrorKind::Throttled,
            false,
            "the store refuses requests because there are too many; renew and poll less often".into(),
        ),
        (501, _) => (
            ErrorKind::Config,
            false,
            format!("the store does not know conditional requests (status 501, {code}); use another store for locks"),
        ),
        (500..=599 | 408, _) => {
            (ErrorKind::Unavailable, true, format!("the store failed (status {status}, {code}); try again"))
        }
        (412, _) => (
            ErrorKind::StoreNotReady,
            false,
            format!(
                "the object has a lease of Azure ({code}); break that lease, and do not lease the objects of locks"
            ),
        ),
        _ if code.is_empty() => (
            ErrorKind::Config,
            true,
            format!("the server is not an object store: it answered with status {status}; check endpoint and proxy"),
        ),
        _ => (ErrorKind::Other, true, format!("the store refused the request (status {status}, {code})")),
    };
    let error = Error::new(kind, text).with_ambiguous(is_ambiguous);
    if message.is_empty() { error } else { error.with_source(message) }
}

/// Converts a failure of the library that left no reply.
pub(crate) fn failed(exchange: &Exchange, error: &object_store::Error, config: &ObjectConfig) -> Error {
    if exchange.is_sent() {
        let http = std::iter::successors(Some(error as &dyn StdError), |&error| error.source());
        let http = http.into_iter().find_map(|error| error.downcast_ref::<HttpError>());
        return http.map_or_else(|| unreachable(config), |error| lost(error, config)).with_source(causes(error, ""));
    }
    if let Some(advice) = own_limit(error) {
        let limit = Error::new(ErrorKind::Limit, advice).with_retryable(true).with_ambiguous(false);
        return limit.with_source(causes(error, ""));
    }
    if let Some(kind) = transport_kind(error).filter(|kind| *kind != HttpErrorKind::Unknown) {
        // Before the request was sent: while connecting, or while asking for credentials.
        let error_kind = if kind == HttpErrorKind::Timeout { ErrorKind::Timeout } else { ErrorKind::Unavailable };
        let text = format!(
            "the store at {}, or the source of its credentials, could not be reached; check network, \
            proxy, endpoint and credentials",
            config.address()
        );
        return Error::new(error_kind, text).with_ambiguous(false).with_source(causes(error, ""));
    }
    let text = "the request could not be made; check the credentials, or give the task, function or instance a role";
    Error::new(ErrorKind::PermissionDenied, text).with_source(causes(error, ""))
}

/// Converts a connection that broke after the request was sent.
pub(crate) fn lost(error: &HttpError, config: &ObjectConfig) -> Error {
    let converted = match error.kind() {
        HttpErrorKind::Timeout => Error::new(ErrorKind::Timeout, "the store did not answer in time"),
        _ => unreachable(config),
    };
    converted.with_source(causes(error, ""))
}

fn unreachable(config: &ObjectConfig) -> Error {
    let text = format!(
        "the store at {} could not be reached, or closed the connection; check network, proxy and endpoint",
        config.address()
    );
    Error::new(ErrorKind::Unavailable, text)
}

fn transport_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let chain = std::iter::successors(Some(error as &dyn StdError), |&error| error.source());
    chain.into_iter().find_map(|error| error.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// The store does not show its clock.
pub(crate) fn no_clock(header: &str) -> Error {
    let text = format!(
        "the store's replies have no usable header {header}, by which the age of locks is judged; use another store, \
         or remove the proxy that changes its replies"
    );
    Error::new(ErrorKind::StoreNotReady, text)
}

/// The store's clock contradicts itself.
pub(crate) fn clock_behind(by_seconds: i64, config: &ObjectConfig) -> Error {
    let text = format!(
        "the store's Date is {by_seconds} s before the Last-Modified of an object, more than skew={:?}, so the age of \
         locks is unknown; synchronise the servers' clocks, or raise skew",
        config.skew
    );
    Error::new(ErrorKind::StoreNotReady, text)
}

/// The store does not say which version it wrote or read.
pub(crate) fn no_version(header: &str) -> Error {
    let text = format!("the store's reply has no header {header}, which conditions need; use another store for locks");
    Error::new(ErrorKind::StoreNotReady, text).with_ambiguous(true)
}

/// The start-up probe saw the store take a condition for granted.
pub(crate) fn ignores_conditions(evidence: &str) -> Error {
    let text = format!(
        "this store ignores conditions, so two clients would hold one lock: {evidence}; use a store that has \
         conditional writes, or remove the proxy that strips the headers If-Match and If-None-Match"
    );
    Error::new(ErrorKind::Config, text)
}

/// An object of another application, or a damaged one, has the key of the lock.
pub(crate) fn stranger(key: &str, why: &str) -> Error {
    let text = format!(
        "the object \"{}\" is not a lock, and was not changed: {why}; use another name or prefix, or delete the object",
        one_line(key)
    );
    Error::new(ErrorKind::StoreNotReady, text)
}

/// Requests of this lease took effect between two others, so its end is not known.
pub(crate) fn overtaken() -> Error {
    Error::new(ErrorKind::Unavailable, "late requests of the same lease took effect meanwhile; try again")
}

pub(crate) fn wrong_address(why: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the request could not be made: {}; check endpoint and credentials", one_line(why)),
    )
}

pub(crate) fn wrong_settings(error: &object_store::Error) -> Error {
    Error::new(ErrorKind::Config, "the settings of the store are incomplete; check bucket, account and credentials")
        .with_source(causes(error, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_descriptors_is_no_failure_of_the_store() {
        let source = Box::new(std::io::Error::from_raw_os_error(24));
        let error = object_store::Error::Generic { store: "S3", source };
        let error = failed(&Exchange::default(), &error, &ObjectConfig::s3("bucket"));
        assert_eq!((error.kind(), error.is_retryable(), error.is_ambiguous()), (ErrorKind::Limit, true, false));
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
}
