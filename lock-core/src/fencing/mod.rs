//! The second half of fencing: the check at the resource.
//!
//! A lock cannot stop a write that is in flight when the lock is lost. The resource can: it
//! compares the fencing token of the write ([`Guard::token`](crate::Guard::token)) with the largest
//! token that it has seen. The comparison and the write have to be one atomic step *of the
//! resource*. A read of the token followed by a write leaves the gap open.
//!
//! This module provides that step for common resources, as texts and plain data for any client:
//!
//! | resource | helper | what compares |
//! |---|---|---|
//! | PostgreSQL, SQLite | [`sql`] | the database, in the `WHERE` of the writing statement, or once per transaction |
//! | DynamoDB | [`dynamo`] | the table, in the condition of the write |
//! | S3 | [`s3`] | the client; the bucket checks that the object has not changed since |
//! | a file | [`mod@file`] | this process, under a lock on a file beside it |
//!
//! ```
//! use lock_core::fencing::sql::{Dialect, FencedTable};
//!
//! let (key, columns) = (&["id"], &["cents"]);
//! let accounts = FencedTable { table: "accounts", key, columns, token: "fence" };
//! // Parameters: id, cents, token. No row changed: refused.
//! assert_eq!(
//!     accounts.update(Dialect::Postgres),
//!     "UPDATE \"accounts\" SET \"cents\" = $2, \"fence\" = $3 \
//!      WHERE \"id\" = $1 AND \"fence\" <= $3"
//! );
//! ```
//!
//! All of them accept a token *equal* to the largest one seen, because a holder writes many times.
//! A token that was refused once is always refused.
//!
//! They cannot refuse a write of an old holder that arrives *before* the first write of the next
//! holder. If that matters, let the next holder begin with a write.

pub mod dynamo;
pub mod file;
pub mod s3;
pub mod sql;

use crate::types::FencingToken;

/// The refusal of a write whose token is smaller than one that the resource has seen. The writer
/// has lost its lock to another client, and the write had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the write with token {token} was refused: a write with the larger token {seen} came before it")]
pub struct Stale {
    /// The token of the refused write.
    pub token: FencingToken,
    /// The largest token that the resource has seen.
    pub seen: FencingToken,
}

/// Converts a token to an integer of SQL. Every token fits.
impl From<FencingToken> for i64 {
    fn from(token: FencingToken) -> Self {
        // At most 2^53 - 1, so nothing wraps.
        token.get().cast_signed()
    }
}
