#![doc = include_str!("../README.md")]

mod backend;
mod config;
mod connect;
mod connection;
mod doctor;
mod environment;
mod error;
mod factory;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod init;
mod joined;
mod listen;
mod named;
mod part;
mod parts_sql;
mod row;
mod shedlock;
mod sql;
mod sweep;
mod table;
mod table_name;
mod tls;

pub use backend::PostgresBackend;
pub use config::{PostgresConfig, Replicas, Schema, ServerConfig, SslMode};
pub use factory::PostgresFactory;
