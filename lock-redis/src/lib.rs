#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod connect;
mod error;
mod keys;
mod link;
mod list;
mod node;
mod record;
mod script;
mod wake;

pub use backend::RedisBackend;
pub use config::{Address, Compat, RedisConfig, Topology};
