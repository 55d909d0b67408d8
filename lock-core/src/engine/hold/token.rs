//! The fencing token of the guard that has a lease now.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::FencingToken;

/// A token that changes with each guard. Readers need no mutex.
#[derive(Debug)]
pub(super) struct Token(AtomicU64);

/// Stands for no token. It is larger than every token.
const NONE: u64 = u64::MAX;

impl Token {
    pub(super) fn new(token: Option<FencingToken>) -> Self {
        Self(AtomicU64::new(token.map_or(NONE, FencingToken::get)))
    }

    pub(super) fn load(&self) -> Option<FencingToken> {
        FencingToken::new(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn store(&self, token: FencingToken) {
        self.0.store(token.get(), Ordering::Relaxed);
    }
}
