#![doc = include_str!("../README.md")]

mod acquire;
mod backend;
mod config;
mod doctor;
mod error;
mod factory;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod keys;
mod memory;
mod operators;
mod probe;
mod record;
mod store;
mod tflock;

pub use backend::ObjectBackend;
pub use config::{ObjectConfig, Service};
pub use factory::ObjectFactory;
pub use tflock::TflockBackend;
