//! The other half of fencing: the check at the resource.
//!
//! A lock cannot stop a write that is already on its way when the lock is lost. The written resource can, by comparing the fencing token of
//! the write ([`Guard::token`](crate::Guard::token)) with the largest one that it has seen. The check and the write have to be one step *of the
//! resource*; reading the token first and writing afterwards leaves the gap that it is meant to close. Here are the steps of the usual
//! resources, as texts and plain data for whatever client the application uses:
//!
//! | resource | helper | what compares |
//! |---|---|---|
//! | PostgreSQL, SQLite | [`sql`] | the database, in the `WHERE` of the writing statement, or once for each transaction |
//! | DynamoDB | [`dynamo`] | the table, in the condition of the write |
//! | S3 | [`s3`] | the client; the bucket makes sure that what was compared is still there |
//! | a file | [`mod@file`] | this process, under a lock of the file's own |
//!
//! ```
//! use lock_core::fencing::sql::{Dialect, FencedTable};
//!
//! let accounts = FencedTable { table: "accounts", key: &["id"], columns: &["cents"], token: "fence" };
//! // Parameters: id, cents, token. No row changed: refused.
//! let update = r#"UPDATE "accounts" SET "cents" = $2, "fence" = $3 WHERE "id" = $1 AND "fence" <= $3"#;
//! assert_eq!(accounts.update(Dialect::Postgres), update);
//! ```
//!
//! All of them take a token that is *equal* to the largest one seen: a holder writes many times. All keep refusing what they have refused once.
//! What they cannot do is refuse an old holder's write that arrives *before* the first write of the next holder. Where that matters, the
//! next holder's first act is a write.

pub mod dynamo;
pub mod file;
pub mod s3;
pub mod sql;

use crate::types::FencingToken;

/// The resource has seen a larger token: this write comes from a holder whose lock somebody else has by now. It was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the write with token {token} came too late: one with token {seen} was there before")]
pub struct Stale {
    /// Of the write that was refused.
    pub token: FencingToken,
    /// The largest that the resource has seen.
    pub seen: FencingToken,
}

/// Every token fits, for the integers of SQL.
impl From<FencingToken> for i64 {
    fn from(token: FencingToken) -> Self {
        // At most 2^53 - 1, so nothing wraps.
        token.get().cast_signed()
    }
}
