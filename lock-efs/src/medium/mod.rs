//! The kinds of file systems that locks are on.

pub(crate) mod file_system;
pub(crate) mod kernel_locks;
pub(crate) mod mount;
pub(crate) mod nfs;
pub(crate) mod temp_record;
