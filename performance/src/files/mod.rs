//! Lock files.

pub(crate) mod command;
pub(crate) mod cycle;
pub(crate) mod hand_off;
pub(crate) mod waiters;

use std::{
    fs::{File, OpenOptions},
    path::Path,
};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("the directory is ours")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory in memory")
}
