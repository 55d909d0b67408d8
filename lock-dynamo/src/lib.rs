#![doc = include_str!("../README.md")]

mod acquire;
mod backend;
mod batch;
mod change;
mod client;
mod clock;
mod config;
mod doctor;
mod error;
mod factory;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod layout;
mod observed;
mod operators;
mod record;
mod schema;
mod table;

pub use backend::DynamoBackend;
pub use config::{DynamoConfig, Takeover};
pub use factory::DynamoFactory;
pub use schema::{Attribute, Schema};
pub use table::{TableCheck, TableOptions};
