#![doc = include_str!("../README.md")]

mod acquire;
mod backend;
mod change;
mod client;
mod clock;
mod config;
mod error;
mod observed;
mod operators;
mod record;
mod schema;

pub use backend::DynamoBackend;
pub use config::{DynamoConfig, Takeover};
pub use schema::Schema;
