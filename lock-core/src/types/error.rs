//! What went wrong, on which store, with which lock, and whether trying again can help.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use crate::types::{InvalidName, LockName, Lost};

/// The sort of an [`Error`], to branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, name or option is wrong: mend the configuration.
    Config,
    /// This backend, as configured, cannot do what was asked.
    Unsupported,
    /// The store refused us: credentials or permissions.
    PermissionDenied,
    /// What should hold the locks (directory, table) is not there or is not what it should be.
    StoreNotReady,
    /// The store could not be reached, or broke off.
    Unavailable,
    /// The store did not answer in time.
    Timeout,
    /// The store is up but asks for fewer requests.
    Throttled,
    /// A quota or a size limit of the store was hit.
    Limit,
    /// The store cannot write: full or read-only.
    Full,
    /// A record in the store is not what it should be.
    Corrupt,
    /// The lock was lost; see [`Error::lost`].
    Lost,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The kind as one lower-case word, for metrics and logs.
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

/// Which operation failed.
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
    /// The operation as one lower-case word, for metrics and logs.
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

/// The error of every fallible operation here.
///
/// It never means "somebody else holds the lock": contention is a value, and an error means that nobody knows, or that
/// nothing can be done. `Display` is one line that says what to do next; the cause is its [`source`](StdError::source), which clones
/// share. `Debug` reads like `Display`, followed by the causes, because that is how `main() -> Result`
/// prints it; `{:#?}` shows the fields.
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
    /// A new error; `message` says what is wrong and what to do about it, without repeating the source.
    ///
    /// Retryable as its kind suggests, and ambiguous for [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`].
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

    /// Adds the operation, unless one stands.
    #[must_use]
    pub fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds the lock's name, unless one stands.
    #[must_use]
    pub fn with_name(mut self, name: &LockName) -> Self {
        self.0.name.get_or_insert_with(|| name.clone());
        self
    }

    /// Adds the store, in a form without secrets, unless one stands.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.0.store.get_or_insert(store.into());
        self
    }

    /// Says whether trying the same again can help.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Says whether the request may have taken effect although it failed: `false` only where it certainly has not.
    #[must_use]
    pub fn with_ambiguous(mut self, ambiguous: bool) -> Self {
        self.0.ambiguous = ambiguous;
        self
    }

    /// The sort of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Which operation failed, if it was one on the store.
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// Which lock it was about.
    pub fn name(&self) -> Option<&LockName> {
        self.0.name.as_ref()
    }

    /// Which store it was, without secrets.
    pub fn store(&self) -> Option<&str> {
        self.0.store.as_deref()
    }

    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether the request may have taken effect although it failed.
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous
    }

    /// How the lock was lost, when the kind is [`ErrorKind::Lost`].
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
    /// For what takes anything that can become a value, one that needs no change included.
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        Self::new(ErrorKind::Config, invalid.to_string())
    }
}

/// The error of a request to which no reply came within `limit`. Whoever sent it says which
/// operation it was.
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
    fn a_clone_says_the_same_and_has_the_same_cause() {
        let error =
            Error::new(ErrorKind::Throttled, "wait").with_ambiguous(true).with_source(std::io::Error::other("503"));
        let one = error.clone().with_name(&LockName::new("a").unwrap());
        assert_eq!((one.kind(), one.is_retryable(), one.is_ambiguous()), (ErrorKind::Throttled, true, true));
        assert_eq!((one.to_string().as_str(), error.to_string().as_str()), ("lock \"a\": wait", "wait"));
        let causes = [&error, &one].map(|error| error.source().unwrap().downcast_ref::<std::io::Error>().unwrap());
        assert!(std::ptr::eq(causes[0], causes[1]));
    }

    #[test]
    fn only_what_may_have_reached_the_store_is_ambiguous() {
        assert!(Error::new(ErrorKind::Timeout, "").is_ambiguous());
        assert!(!Error::new(ErrorKind::Throttled, "").is_ambiguous());
        assert!(Error::new(ErrorKind::Throttled, "").is_retryable());
        assert!(!Error::new(ErrorKind::Config, "").is_retryable());
    }
}
