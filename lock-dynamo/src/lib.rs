#![doc = include_str!("../README.md")]

mod acquire;
mod attributes;
mod backend;
mod batch;
mod batches;
mod client;
mod config;
mod doctor;
mod error;
mod factory;
mod fair;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod held;
mod http;
mod joined;
mod operators;
mod read_first;
mod record;
mod send;
mod table;
mod write;

pub use attributes::{Attribute, Schema};
pub use backend::DynamoBackend;
pub use config::{DynamoConfig, Takeover};
pub use factory::DynamoFactory;
pub use table::{TableCheck, TableOptions};
