#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("lock-efs needs flock, which only Unix has");

mod backend;
mod calls;
mod config;
mod dir;
mod doctor;
mod encode;
mod error;
mod factory;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod lockfile;
mod look;
mod mode;
mod mount;
mod nfs;
mod probe;
#[cfg(target_os = "linux")]
mod queue;
mod record;
mod sidecar;
mod store;
mod sweep;
mod table;
#[cfg(target_os = "linux")]
mod watch;

pub use backend::FileBackend;
pub use config::FileConfig;
pub use factory::FileFactory;
pub use sweep::{Sweep, Swept};
