#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("lock-efs needs flock, which only Unix has");

mod backend;
mod config;
mod dir;
mod encode;
mod error;
mod lockfile;
mod probe;
#[cfg(target_os = "linux")]
mod queue;
mod record;
mod sidecar;
mod store;
mod table;
#[cfg(target_os = "linux")]
mod watch;

pub use backend::FileBackend;
pub use config::{FileConfig, FileFactory};
