//! Converts the SDK's errors, with advice.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    types::BatchStatementErrorCodeEnum,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use lock_core::{
    Error, ErrorKind, LockName,
    backend::{causes, one_line, own_limit},
};

use crate::{
    attributes::Attribute,
    config::DynamoConfig,
    http::{BadReply, NoAuthorities},
};

/// Converts an SDK error. Failed conditions are not errors, and do not come here.
pub(crate) fn convert<E>(error: SdkError<E, HttpResponse>, config: &DynamoConfig) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    // Also where only the credentials were asked for. Nothing was sent to DynamoDB.
    if let Some(advice) = own_limit(&error).filter(|_| matches!(error, SdkError::DispatchFailure(_))) {
        let limit = Error::new(ErrorKind::Limit, advice).with_retryable(true).with_ambiguous(false);
        return limit.with_source(causes(&error, advice));
    }
    if find::<NoAuthorities>(&error).is_some() {
        return Error::new(ErrorKind::Config, NoAuthorities.to_string());
    }
    let converted = match &error {
        SdkError::TimeoutError(_) => timeout(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => timeout(),
        SdkError::DispatchFailure(_) if find::<CredentialsError>(&error).is_some() => credentials(),
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Error::new(ErrorKind::Config, "the request could not be built; check endpoint and region")
        }
        SdkError::DispatchFailure(_) => match find::<BadReply>(&error) {
            Some(reply) => not_dynamodb(&reply.to_string(), config),
            None => unreachable(config),
        },
        SdkError::ResponseError(_) => not_dynamodb("its reply cannot be parsed", config),
        SdkError::ServiceError(context) if context.raw().status().is_success() => {
            not_dynamodb("its reply cannot be parsed", config)
        }
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            service(
                context.err().code().unwrap_or_default(),
                context.err().message().unwrap_or_default(),
                status,
                config,
            )
        }
        _ => Error::new(ErrorKind::Config, "the request could not be built; check table, endpoint and region"),
    };
    let causes = causes(&error, &converted.to_string());
    if causes.is_empty() { converted } else { converted.with_source(causes) }
}

/// A server answered, but not as DynamoDB does. The request may have taken effect behind a proxy.
fn not_dynamodb(why: &str, config: &DynamoConfig) -> Error {
    let message = format!("the server at {} is not DynamoDB: {why}; check endpoint and proxy", place(config));
    Error::new(ErrorKind::Config, one_line(&message)).with_ambiguous(true)
}

fn place(config: &DynamoConfig) -> String {
    config.endpoint.as_ref().map_or_else(|| "its endpoint".to_owned(), ToString::to_string)
}

/// Another application's item has the name of the lock.
pub(crate) fn stranger(name: &LockName, config: &DynamoConfig) -> Error {
    let (table, key) = (&config.table, config.layout.name(Attribute::Key));
    let message = format!(
        "the item \"{name}\" (attribute \"{key}\") in the table \"{table}\" is not a lock, and was not changed; use \
         another name or table, or delete the item"
    );
    Error::new(ErrorKind::StoreNotReady, message)
}

fn timeout() -> Error {
    Error::new(ErrorKind::Timeout, "DynamoDB did not answer in time")
}

fn unreachable(config: &DynamoConfig) -> Error {
    let place = place(config);
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "DynamoDB could not be reached at {place}, or closed the connection; check network, proxy and endpoint"
        ),
    )
}

fn credentials() -> Error {
    let message = "no usable AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give the task, function or \
        instance a role";
    Error::new(ErrorKind::PermissionDenied, message)
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// Converts DynamoDB's error codes.
fn service(code: &str, message: &str, status: u16, config: &DynamoConfig) -> Error {
    let table = &config.table;
    let (code, message) = (one_line(code), &*one_line(message));
    let (kind, text) = match code.as_str() {
        "ResourceNotFoundException" => (
            ErrorKind::StoreNotReady,
            format!(
                "there is no table \"{table}\" in this region; create it (`onelock init`), or correct table and region"
            ),
        ),
        "ValidationException" => validation(message, config),
        "AccessDeniedException" | "NotAuthorizedException" => (
            ErrorKind::PermissionDenied,
            format!(
                "access to the table \"{table}\" is denied; grant the permissions of the policy in docs/dynamodb.md"
            ),
        ),
        "ExpiredTokenException" | "ExpiredToken" => {
            (ErrorKind::PermissionDenied, "the AWS credentials have expired; log in again or refresh them".into())
        }
        "InvalidSignatureException" | "RequestTimeTooSkewed" | "SignatureDoesNotMatch" if is_skewed(message) => (
            ErrorKind::PermissionDenied,
            "this machine's clock is too far off for AWS signatures; set the clock (NTP)".into(),
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignatureException" => (
            ErrorKind::PermissionDenied,
            "the request's signature is wrong; check the secret key and the region".into(),
        ),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken" => {
            (ErrorKind::PermissionDenied, "AWS does not know these credentials; check the access key".into())
        }
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => (
            ErrorKind::Throttled,
            format!(
                "DynamoDB throttles requests: the table \"{table}\" is out of capacity, or too many clients ask for \
                 one lock, whose item takes about 1,000 writes a second; give the table on-demand billing or more \
                 capacity, or let fewer clients ask at once (docs/many-at-once.md)"
            ),
        ),
        "ItemCollectionSizeLimitExceededException" => {
            (ErrorKind::Limit, "the item collection is too large; keep locks in a table without local indexes".into())
        }
        // Not throttling, which would slow this client down: the other write ends in a moment.
        "ReplicatedWriteConflictException" | "TransactionConflictException" => {
            (ErrorKind::Unavailable, "another write to the same item was in progress; retry".into())
        }
        "UnknownOperationException" => {
            (ErrorKind::Unsupported, format!("this server does not support the operation: {message}"))
        }
        _ if status >= 500 => (ErrorKind::Unavailable, format!("DynamoDB failed with status {status}")),
        "" => (ErrorKind::Other, format!("DynamoDB answered with status {status}")),
        // The SDK's own `Display` says only "service error".
        _ => (ErrorKind::Other, format!("DynamoDB answered {code}: {message}")),
    };
    let error = Error::new(kind, text);
    // An unknown code does not prove that nothing was done.
    let is_ambiguous = error.is_ambiguous() || kind == ErrorKind::Other;
    error.with_ambiguous(is_ambiguous)
}

/// Converts the error of one statement of a batch. Its codes are those of single requests with
/// other endings.
pub(crate) fn of_code(code: Option<&BatchStatementErrorCodeEnum>, message: &str, config: &DynamoConfig) -> Error {
    let stem = code.map_or("", |code| code.as_str());
    let stem = stem.strip_suffix("Error").filter(|_| stem != "InternalServerError").unwrap_or(stem);
    match stem {
        "RequestLimitExceeded" => service(stem, message, 400, config),
        "InternalServerError" => service(stem, message, 500, config),
        stem => service(&format!("{stem}Exception"), message, 400, config),
    }
}

fn is_skewed(message: &str) -> bool {
    ["Signature expired", "Signature not yet current", "too skewed", "RequestTimeTooSkewed"]
        .iter()
        .any(|s| message.contains(s))
}

fn validation(message: &str, config: &DynamoConfig) -> (ErrorKind, String) {
    let layout = &config.layout;
    let key = layout.name(Attribute::Key);
    let wrong_key = ["does not match the schema", "Missing the key", "key element", "number of conditions on the keys"];
    if message.contains("Item size") || message.contains("item size") {
        return (ErrorKind::Limit, "the item would exceed DynamoDB's 400 KB; keep less data in the lock".into());
    }
    if wrong_key.iter().any(|s| message.contains(s)) {
        let keys = match &layout.sort {
            None => format!("a partition key \"{}\" (string) and no sort key", key),
            Some((sort, _)) => format!("a partition key \"{}\" and a sort key \"{sort}\" (strings)", key),
        };
        return (
            ErrorKind::StoreNotReady,
            format!(
                "the keys of the table \"{}\" do not match schema {}, which needs {keys}; choose the schema or the \
                 key names of the table",
                config.table, layout.schema
            ),
        );
    }
    (ErrorKind::Config, format!("DynamoDB rejected the request as invalid: {message}"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::operation::get_item::GetItemError;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    #[test]
    fn a_process_without_descriptors_is_no_failure_of_the_store() {
        let too_many_open_files = std::io::Error::from_raw_os_error(24);
        let failure = ConnectorError::io(Box::new(too_many_open_files));
        let error = convert(SdkError::<GetItemError, _>::dispatch_failure(failure), &DynamoConfig::new("locks"));
        assert_eq!((error.kind(), error.is_retryable(), error.is_ambiguous()), (ErrorKind::Limit, true, false));
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }

    #[test]
    fn batch_codes_have_the_kinds_of_single_requests() {
        use BatchStatementErrorCodeEnum as Code;
        for (code, kind) in [
            (Code::ThrottlingError, ErrorKind::Throttled),
            (Code::ProvisionedThroughputExceeded, ErrorKind::Throttled),
            (Code::RequestLimitExceeded, ErrorKind::Throttled),
            (Code::TransactionConflict, ErrorKind::Unavailable),
            (Code::InternalServerError, ErrorKind::Unavailable),
            (Code::ResourceNotFound, ErrorKind::StoreNotReady),
            (Code::AccessDenied, ErrorKind::PermissionDenied),
            (Code::ItemCollectionSizeLimitExceeded, ErrorKind::Limit),
            (Code::ValidationError, ErrorKind::Config),
            (Code::DuplicateItem, ErrorKind::Other),
        ] {
            let error = of_code(Some(&code), "", &DynamoConfig::new("locks"));
            assert_eq!(error.kind(), kind, "{code}: {error}");
        }
    }

    #[test]
    fn each_error_code_has_its_kind_and_advice() {
        let config = DynamoConfig::new("locks");
        let key = "The provided key element does not match the schema";
        let late = "Signature expired: 20261122T000000Z is now earlier than 20261122T005000Z";
        for (code, message, status, kind, advice) in [
            ("ResourceNotFoundException", "", 400, ErrorKind::StoreNotReady, "`onelock init`"),
            ("ValidationException", key, 400, ErrorKind::StoreNotReady, "partition key \"key\""),
            ("ValidationException", "Item size has exceeded the maximum allowed size", 400, ErrorKind::Limit, "400 KB"),
            ("ValidationException", "nonsense", 400, ErrorKind::Config, "invalid"),
            ("AccessDeniedException", "", 400, ErrorKind::PermissionDenied, "policy"),
            ("ExpiredTokenException", "", 400, ErrorKind::PermissionDenied, "log in again"),
            ("InvalidSignatureException", late, 403, ErrorKind::PermissionDenied, "clock"),
            ("InvalidSignatureException", "does not match", 403, ErrorKind::PermissionDenied, "secret key"),
            ("UnrecognizedClientException", "", 400, ErrorKind::PermissionDenied, "access key"),
            ("ProvisionedThroughputExceededException", "", 400, ErrorKind::Throttled, "on-demand"),
            ("ThrottlingException", "", 400, ErrorKind::Throttled, "throttles requests"),
            ("InternalServerError", "", 500, ErrorKind::Unavailable, "500"),
            ("", "", 503, ErrorKind::Unavailable, "503"),
            ("SomethingNew", "", 400, ErrorKind::Other, "SomethingNew"),
        ] {
            let error = service(code, message, status, &config);
            assert_eq!(error.kind(), kind, "{code}: {error}");
            assert!(error.to_string().contains(advice), "{code}: {error}");
            assert!(error.is_ambiguous() || kind != ErrorKind::Other, "{code}: {error}");
        }
    }
}
