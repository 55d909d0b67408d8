#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("lock-efs needs flock, which exists only on Unix");

mod backend;
mod byte_locks;
mod clock;
mod config;
mod dir;
mod doctor;
mod encode;
mod error;
mod factory;
mod fair;
mod files;
mod floor;
mod forks;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod held;
mod inspect;
mod io_pool;
mod key;
mod lockfile;
mod medium;
mod mode;
mod names;
mod open;
mod parts;
mod process;
mod record;
mod retire;
mod sidecar;
mod store;
mod sweep;
mod sync;
mod table;
mod user_directory;
mod wait;

pub use backend::FileBackend;
pub use config::FileConfig;
pub use factory::FileFactory;
pub use forks::after_fork_in_child;
pub use names::Names;
pub use sweep::{Sweep, Swept};
pub use user_directory::UserDirectory;
