#![doc = include_str!("../README.md")]

mod backend;
mod factory;
mod holders;
mod taken;

pub use backend::ChainBackend;
pub use factory::ChainFactory;
