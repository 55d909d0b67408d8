#![doc = include_str!("../README.md")]

mod advice;
mod answer;
mod ask;
mod backend;
mod batches;
mod compat;
mod config;
mod connect;
mod connection;
mod deployment;
mod doctor;
mod error;
mod factory;
mod fair;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod joined;
mod keys;
mod list;
mod operators;
mod outstanding_replies;
mod queue;
mod quorum;
mod record;
mod refusal;
mod relay;
mod renewal;
mod repair;
mod repeated_requests;
mod replication;
mod script;
mod signal_watch;
mod stamps;
mod unanswered_acquires;
mod views;
mod wake;
mod watch;

pub use backend::RedisBackend;
pub use config::{Address, Compat, RedisConfig, Topology};
pub use factory::RedisFactory;
