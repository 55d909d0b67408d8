//! Closes, in a child made by `fork`, the lock files that it inherited from its parent.
//!
//! A child shares the open files of its parent. While it has one open, a lock stays held after its
//! holder was killed.
#![allow(unsafe_code, reason = "a handler of fork, and descriptors that another value owns")]

use std::{
    fs::{File, Metadata},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
};

use lock_core::{Error, ErrorKind};
use nix::libc;

use crate::sync;

/// A slot without a lock file.
const FREE: RawFd = -1;
/// A slot that a thread is filling, or whose file is closed in this child.
const TAKEN: RawFd = -2;

/// An open lock file. It has atomics only, because a handler of `fork` must not lock anything.
#[derive(Debug)]
struct Slot {
    descriptor: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
    process: AtomicU32,
}

impl Slot {
    const fn new() -> Self {
        Self {
            descriptor: AtomicI32::new(FREE),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            process: AtomicU32::new(0),
        }
    }
}

/// Slots that are never removed, so that a handler can read them at any moment.
#[derive(Debug)]
struct Chunk {
    slots: [Slot; 64],
    next: OnceLock<Box<Self>>,
}

static FIRST: Chunk = Chunk::new();

impl Chunk {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; 64], next: OnceLock::new() }
    }

    /// Returns a slot that was free. If none is, adds a chunk.
    fn take(&'static self) -> &'static Slot {
        let mut chunk = self;
        loop {
            let free = chunk.slots.iter().find(|slot| {
                slot.descriptor.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            });
            match free {
                Some(slot) => return slot,
                None => chunk = chunk.next.get_or_init(|| Box::new(Self::new())),
            }
        }
    }
}

/// Lists an open lock file for [`after_fork_in_child`] until it is dropped. Drop it after the file.
#[derive(Debug)]
pub(crate) struct Listed(&'static Slot);

impl Listed {
    pub(crate) fn new(file: &File, found: &Metadata) -> Self {
        let slot = FIRST.take();
        slot.device.store(found.dev(), Ordering::Relaxed);
        slot.inode.store(found.ino(), Ordering::Relaxed);
        slot.process.store(std::process::id(), Ordering::Relaxed);
        slot.descriptor.store(file.as_raw_fd(), Ordering::Release);
        Self(slot)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.descriptor.store(FREE, Ordering::Release);
    }
}

/// Closes the lock files that this process inherited from the process that forked it. The parent
/// keeps its locks, and they are free as soon as the parent has ended.
///
/// Opening a store registers it as a handler, so `fork` of the C library calls it. Call it in the
/// child only after a system call such as `clone`, which calls no handlers. Without it, a lock of a
/// killed parent stays held until the child ends too. In the process that opened the files it does
/// nothing.
///
/// It makes only calls that are safe in a signal handler.
pub fn after_fork_in_child() {
    let process = std::process::id();
    let mut substitute = None;
    let mut chunk = Some(&FIRST);
    while let Some(Chunk { slots, next }) = chunk {
        for slot in slots {
            let descriptor = slot.descriptor.load(Ordering::Acquire);
            if descriptor >= 0 && slot.process.load(Ordering::Relaxed) != process && is_in(slot, descriptor) {
                let substitute = *substitute.get_or_insert_with(closed_pipe);
                replace(descriptor, substitute);
                slot.descriptor.store(TAKEN, Ordering::Release);
            }
        }
        chunk = next.get().map(|next| &**next);
    }
    if let Some(substitute) = substitute {
        // SAFETY: this function opened the descriptor, and no value owns it.
        unsafe { libc::close(substitute) };
    }
}

/// Returns whether the descriptor is still the lock file. Another handler of `fork` may have closed
/// it, and its number may belong to another file now.
fn is_in(slot: &Slot, descriptor: RawFd) -> bool {
    // SAFETY: all bits of `stat` may be zero, and the call writes only to it.
    let found = unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        (libc::fstat(descriptor, &raw mut found) == 0).then_some(found)
    };
    found.is_some_and(|found| {
        found.st_dev == slot.device.load(Ordering::Relaxed) && found.st_ino == slot.inode.load(Ordering::Relaxed)
    })
}

/// Returns a descriptor of a pipe without a writer; negative if none can be opened.
fn closed_pipe() -> RawFd {
    let mut ends = [-1; 2];
    // SAFETY: the call writes two descriptors, and this function owns both.
    unsafe {
        if libc::pipe(ends.as_mut_ptr()) == 0 {
            libc::close(ends[1]);
        }
    }
    ends[0]
}

/// Closes the file behind `descriptor`. The number stays open, because the value that owns it will
/// close it, and must not close another file.
fn replace(descriptor: RawFd, substitute: RawFd) {
    // SAFETY: both numbers are open descriptors, and neither call touches memory.
    unsafe {
        if libc::dup2(substitute, descriptor) >= 0 {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Lets [`after_fork_in_child`] run in every child that this process and its children fork from now
/// on. The first call registers it.
///
/// # Errors
/// Of kind [`ErrorKind::Limit`] if there is no memory for the handler.
pub(crate) fn handle_forks() -> Result<(), Error> {
    extern "C" fn in_child() {
        after_fork_in_child();
    }
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = sync::lock(&DONE);
    if !*done {
        // SAFETY: the handler makes only calls that are safe after `fork`.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if failed != 0 {
            let what = "cannot register a handler for forks: there is no memory for it";
            return Err(Error::new(ErrorKind::Limit, what).with_ambiguous(false));
        }
        *done = true;
    }
    Ok(())
}
