//! Starts the real servers that tests run against. A missing server is a failure that says how to get it, never a skip.

pub mod dynamodb;
pub mod wire;
