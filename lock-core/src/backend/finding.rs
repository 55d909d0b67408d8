//! Findings about how a store is set up: whether it is fit for locks, and what to change.

use std::fmt;

/// The weight of a [`Finding`]; later variants are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Level {
    /// The store is set up as it should be.
    Good,
    /// Worth knowing; nothing to do.
    Note,
    /// Locks work, but the set-up has an avoidable risk.
    Warning,
    /// A guarantee of this store does not hold. Do not use it for locks as it is.
    Unfit,
}

impl Level {
    /// The level as one lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Unfit => "unfit",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One fact about a store and what follows from it; made by
/// [`Backend::diagnose`](crate::backend::Backend::diagnose).
///
/// ```
/// use lock_core::backend::Finding;
///
/// let finding = Finding::unfit("maxmemory-policy", "allkeys-lru: the server may evict a lock")
///     .advice("set maxmemory-policy to noeviction");
/// assert_eq!(
///     finding.to_string(),
///     "unfit: maxmemory-policy: allkeys-lru: the server may evict a lock; \
///      set maxmemory-policy to noeviction"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The subject, in a word or two: "server version", "local_lock".
    pub subject: String,
    /// The observation and what follows from it, without secrets.
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// A finding of that level, without advice.
    pub fn new(level: Level, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level, subject: subject.into(), text: text.into(), advice: None }
    }

    /// Of level [`Good`](Level::Good).
    pub fn good(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Good, subject, text)
    }

    /// Of level [`Note`](Level::Note).
    pub fn note(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Note, subject, text)
    }

    /// Of level [`Warning`](Level::Warning).
    pub fn warning(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Warning, subject, text)
    }

    /// Of level [`Unfit`](Level::Unfit).
    pub fn unfit(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Unfit, subject, text)
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Finding {
    /// One line: `warning: persistence: … ; switch on appendonly`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.level, self.subject, self.text)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}
