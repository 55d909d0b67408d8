#![doc = include_str!("../README.md")]

mod answer;
mod backend;
mod config;
mod connect;
mod debts;
mod doctor;
mod error;
mod factory;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod link;
mod list;
mod node;
mod quorum;
mod record;
mod script;
mod signal;
mod strays;
mod wake;

pub use backend::RedisBackend;
pub use config::{Address, Compat, RedisConfig, Topology};
pub use factory::RedisFactory;
