//! Verifies the other crates together. The crate has programs that contend across processes and
//! machines, and [`verification`], which writes `docs/verification.md`. Code that the tests of
//! several crates share is in `test-support`.

pub mod verification;

pub use test_support::*;
