//! Closes, in a child made by `fork`, the lock files that it inherited from its parent.
//!
//! A child shares the open files of its parent. While it has one open, a lock stays held after its
//! holder was killed.
#![allow(unsafe_code, reason = "a handler of fork, and descriptors that another value owns")]

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsRawFd, IntoRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    thread,
};

use lock_core::{
    Error, ErrorKind,
    backend::{Process, own_limit},
};
use nix::{errno::Errno, fcntl::OFlag, libc, unistd::pipe2};

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
    /// The mark of the process that opened it.
    process: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            descriptor: AtomicI32::new(FREE),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            process: AtomicU64::new(0),
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

/// The end of a pipe without a writer. It takes the place of inherited lock files, and is open in
/// advance, because a child may have no descriptor left.
static SUBSTITUTE: AtomicI32 = AtomicI32::new(-1);

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

/// The forks of this process that have begun, and those that have ended in this process.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Calls `open` until no fork overlaps it. A child that is forked between the opening of a file and
/// its [`Listed`] would keep the file open, and with it the lock that this process acquires next.
pub(crate) fn open_between_forks<T, E>(mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        let begun = BEGUN.load(Ordering::SeqCst);
        if ENDED.load(Ordering::SeqCst) != begun {
            thread::yield_now();
            continue;
        }
        let opened = open()?;
        if BEGUN.load(Ordering::SeqCst) == begun {
            return Ok(opened);
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
        slot.process.store(Process::current().mark(), Ordering::Relaxed);
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
    let process = Process::current().mark();
    let substitute = SUBSTITUTE.load(Ordering::Acquire);
    let mut chunk = Some(&FIRST);
    while let Some(Chunk { slots, next }) = chunk {
        for slot in slots {
            let descriptor = slot.descriptor.load(Ordering::Acquire);
            if descriptor >= 0 && slot.process.load(Ordering::Relaxed) != process && is_in(slot, descriptor) {
                replace(descriptor, substitute);
                slot.descriptor.store(TAKEN, Ordering::Release);
            }
        }
        chunk = next.get().map(|next| &**next);
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
/// Of kind [`ErrorKind::Limit`] if there is no memory or no descriptor for the handler.
pub(crate) fn handle_forks() -> Result<(), Error> {
    extern "C" fn begins() {
        BEGUN.fetch_add(1, Ordering::SeqCst);
    }
    extern "C" fn has_ended() {
        ENDED.fetch_add(1, Ordering::SeqCst);
    }
    extern "C" fn in_child() {
        // Threads that were forking at the same time do not exist here.
        ENDED.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
        after_fork_in_child();
    }
    static DONE: Mutex<bool> = Mutex::new(false);
    let failed = |source: Errno| {
        let source = io::Error::from(source);
        let advice = own_limit(&source).unwrap_or("this process has no memory left; free some");
        let what = format!("cannot prepare for forks: {advice}");
        Error::new(ErrorKind::Limit, what).with_source(source).with_retryable(true).with_ambiguous(false)
    };
    let mut done = sync::lock(&DONE);
    if !*done {
        let (substitute, _) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        // SAFETY: the handlers make only calls that are safe around `fork`.
        let refused = unsafe { libc::pthread_atfork(Some(begins), Some(has_ended), Some(in_child)) };
        if refused != 0 {
            return Err(failed(Errno::from_raw(refused)));
        }
        SUBSTITUTE.store(substitute.into_raw_fd(), Ordering::Release);
        *done = true;
    }
    Ok(())
}
