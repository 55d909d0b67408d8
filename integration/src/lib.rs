//! What verifies the other crates together: programs that contend across processes and machines,
//! and [`verification`], which makes `docs/verification.md`. What tests share is in `test-support`.

pub mod verification;

pub use test_support::*;
