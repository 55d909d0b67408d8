//! Errors: what failed, on which store and lock, and whether a retry can help.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use crate::types::{InvalidName, LockName, Lost};

/// The kind of an [`Error`], to branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Invalid configuration: a setting, name or option is wrong.
    Config,
    /// The backend, as configured, does not support the operation.
    Unsupported,
    /// The store refused the request: wrong credentials or missing permissions.
    PermissionDenied,
    /// The directory or table for the locks is missing or unsuitable.
    StoreNotReady,
    /// The store was unreachable, or the connection broke.
    Unavailable,
    /// The store did not reply in time, or a deadline was reached.
    Timeout,
    /// The store is up, but rejects requests because there are too many.
    Throttled,
    /// A quota or a size limit of the store was reached.
    Limit,
    /// The store cannot write: it is full or read-only.
    Full,
    /// A record in the store is corrupt.
    Corrupt,
    /// The lock was lost; see [`Error::lost`].
    Lost,
    /// Any other error.
    Other,
}

impl ErrorKind {
    /// Returns the kind as one lower-case word, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Unsupported => "unsupported",
            Self::PermissionDenied => "permission_denied",
            Self::StoreNotReady => "store_not_ready",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Limit => "limit",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
            Self::Lost => "lost",
            Self::Other => "other",
        }
    }

    fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Throttled)
    }
}

/// The operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Reading the configuration and connecting.
    Open,
    /// [`acquire`](crate::backend::Backend::acquire).
    Acquire,
    /// [`renew`](crate::backend::Backend::renew).
    Renew,
    /// [`release`](crate::backend::Backend::release).
    Release,
    /// [`inspect`](crate::backend::Admin::inspect).
    Inspect,
    /// [`list`](crate::backend::Admin::list).
    List,
    /// [`break_lock`](crate::backend::Admin::break_lock).
    Break,
    /// [`watch`](crate::backend::Backend::watch).
    Watch,
    /// [`purge`](crate::backend::Admin::purge).
    Purge,
}

impl Operation {
    /// Returns the operation as one lower-case word, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Inspect => "inspect",
            Self::List => "list",
            Self::Purge => "purge",
            Self::Break => "break",
            Self::Watch => "watch",
        }
    }
}

/// The error type of this crate.
///
/// An error never means that another client holds the lock: contention is a value. An error means
/// that the outcome is unknown, or that the operation cannot succeed.
///
/// `Display` is one line that says what to do next. The cause is the [`source`](StdError::source),
/// which clones share. `Debug` prints the same line and then the causes, because `main() -> Result`
/// prints errors by `Debug`. `{:#?}` shows the fields.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<Operation>,
    name: Option<LockName>,
    store: Option<String>,
    retryable: bool,
    ambiguous: bool,
    lost: Option<Lost>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error. `message` says what is wrong and what to do, without repeating the source.
    ///
    /// The error is retryable if its kind is transient. It is ambiguous if its kind is
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Timeout`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            name: None,
            store: None,
            retryable: kind.is_retryable(),
            ambiguous: matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout),
            lost: None,
            source: None,
        }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Adds the operation, unless one is set.
    #[must_use]
    pub fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds the lock's name, unless one is set.
    #[must_use]
    pub fn with_name(mut self, name: &LockName) -> Self {
        self.0.name.get_or_insert_with(|| name.clone());
        self
    }

    /// Adds the store, in a form without secrets, unless one is set.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.0.store.get_or_insert(store.into());
        self
    }

    /// Sets whether a retry can help.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Sets whether the request may have taken effect although it failed. `false` means that it
    /// certainly has not.
    #[must_use]
    pub fn with_ambiguous(mut self, ambiguous: bool) -> Self {
        self.0.ambiguous = ambiguous;
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed, if it was one on the store.
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// Returns the name of the lock, if the error concerns one.
    pub fn name(&self) -> Option<&LockName> {
        self.0.name.as_ref()
    }

    /// Returns the store, without secrets.
    pub fn store(&self) -> Option<&str> {
        self.0.store.as_deref()
    }

    /// Returns `true` if a retry can help.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Returns `true` if the request may have taken effect although it failed.
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous
    }

    /// Returns the loss, if the kind is [`ErrorKind::Lost`].
    pub fn lost(&self) -> Option<&Lost> {
        self.0.lost.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, name, store, message, .. } = &*self.0;
        if let Some(operation) = operation {
            write!(f, "{}", operation.as_str())?;
            if let Some(name) = name {
                write!(f, " \"{name}\"")?;
            }
            if let Some(store) = store {
                write!(f, " on {store}")?;
            }
            write!(f, ": ")?;
        } else if let Some(name) = name {
            write!(f, "lock \"{name}\": ")?;
        }
        write!(f, "{message}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return f.debug_tuple("Error").field(&self.0).finish();
        }
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        let mut error = Self::new(ErrorKind::Lost, lost.to_string());
        error.0.lost = Some(lost);
        error
    }
}

impl From<std::convert::Infallible> for Error {
    /// Lets generic `TryInto` arguments accept the identity conversion.
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        Self::new(ErrorKind::Config, invalid.to_string())
    }
}

/// Returns the error of a request that got no reply within `limit`. The caller adds the operation.
pub(crate) fn no_reply(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the store did not answer within {limit:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_with_context_and_without_the_source() {
        let error = Error::new(ErrorKind::Full, "no space left; free some")
            .with_operation(Operation::Acquire)
            .with_name(&LockName::new("a\nb").unwrap())
            .with_store("file:///x")
            .with_source(std::io::Error::other("ENOSPC"));
        assert_eq!(error.to_string(), "acquire \"a\\nb\" on file:///x: no space left; free some");
        assert_eq!(error.source().unwrap().to_string(), "ENOSPC");
    }

    #[test]
    fn debug_reads_like_display_and_names_the_causes() {
        let error = Error::new(ErrorKind::Full, "no space left; free some")
            .with_operation(Operation::Open)
            .with_source(std::io::Error::other("ENOSPC"));
        assert_eq!(format!("{error:?}"), "open: no space left; free some: ENOSPC");
        let fields = format!("{error:#?}");
        assert!(fields.contains("kind: Full") && fields.contains("retryable: false"), "{fields}");
    }

    #[test]
    fn clone_keeps_fields_and_shares_the_cause() {
        let error =
            Error::new(ErrorKind::Throttled, "wait").with_ambiguous(true).with_source(std::io::Error::other("503"));
        let one = error.clone().with_name(&LockName::new("a").unwrap());
        assert_eq!((one.kind(), one.is_retryable(), one.is_ambiguous()), (ErrorKind::Throttled, true, true));
        assert_eq!((one.to_string().as_str(), error.to_string().as_str()), ("lock \"a\": wait", "wait"));
        let causes = [&error, &one].map(|error| error.source().unwrap().downcast_ref::<std::io::Error>().unwrap());
        assert!(std::ptr::eq(causes[0], causes[1]));
    }

    #[test]
    fn kinds_set_retryable_and_ambiguous() {
        assert!(Error::new(ErrorKind::Timeout, "").is_ambiguous());
        assert!(!Error::new(ErrorKind::Throttled, "").is_ambiguous());
        assert!(Error::new(ErrorKind::Throttled, "").is_retryable());
        assert!(!Error::new(ErrorKind::Config, "").is_retryable());
    }
}
