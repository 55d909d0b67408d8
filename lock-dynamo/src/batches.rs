//! Whether renewals can be batched, and which of them.

use std::{fmt, sync::OnceLock};

use lock_core::backend::Lease;

/// DynamoDB's limit on the statements in one batch.
pub(crate) const LARGEST: usize = 25;

/// Whether all leases are of different locks. If an operator breaks a lock and this process
/// acquires it again, both leases are here until the first is found to be lost. DynamoDB refuses a
/// whole batch that names an item twice.
pub(crate) fn are_distinct(leases: &[Lease]) -> bool {
    let mut names: Vec<_> = leases.iter().map(|lease| &lease.name).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair[0] != pair[1])
}

/// Whether the store accepts batches; assumed until a batch is refused.
#[derive(Debug, Default)]
pub(crate) struct Batches(OnceLock<Refusal>);

/// Why the store refused batches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    /// The permission `dynamodb:PartiQLUpdate` is missing.
    Denied,
    /// The server, an emulator, does not implement the operation.
    Unknown,
}

impl Batches {
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.0.get().copied()
    }

    /// Notes that the store refused a batch. The first reason stays.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        let _ = self.0.set(refusal);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "no permission for PartiQLUpdate",
            Self::Unknown => "this server does not support BatchExecuteStatement",
        })
    }
}
