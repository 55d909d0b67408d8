//! Lock files.

pub(crate) mod command;
pub(crate) mod cycle;
pub(crate) mod hand_off;
pub(crate) mod held;
pub(crate) mod waiters;

use std::{
    fs::{File, OpenOptions, symlink_metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("the directory is ours")
}

/// Returns whether the name still means this file, and not one that replaced it.
fn means(path: &Path, file: &File) -> bool {
    let locked = file.metadata().expect("it is open");
    symlink_metadata(path).is_ok_and(|named| (locked.dev(), locked.ino()) == (named.dev(), named.ino()))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory in memory")
}
