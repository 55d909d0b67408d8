//! Forks without exec, as an interpreter or a pre-forking server makes them.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

use lock_core::blocking;
use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, fork, pipe},
};

/// Forks. The child passes its copy of `value` to `work` and ends without running destructors.
/// Returns the parent's `value` and what `work` returned.
///
/// The child has no other thread of this process, so `work` must use none.
///
/// # Panics
/// If the system refuses the fork, or `work` panics.
#[expect(unsafe_code, reason = "fork is unsafe where other threads hold locks")]
pub fn forked<T>(value: T, work: impl FnOnce(T) -> String) -> (T, String) {
    let (from_child, to_parent): (OwnedFd, OwnedFd) = pipe().expect("a pipe for the answer");
    // SAFETY: the locks of the C library are usable in the child, and tests hold no others across
    // this call.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Child => {
            let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(value)));
            let _ = answer.map(|answer| File::from(to_parent).write_all(answer.as_bytes()));
            // SAFETY: it ends the process. Destructors belong to the parent.
            unsafe { nix::libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(to_parent);
            let mut answer = String::new();
            File::from(from_child).read_to_string(&mut answer).expect("the child writes text");
            waitpid(child, None).expect("the child ends");
            assert!(!answer.is_empty(), "the work of the child panicked");
            (value, answer)
        }
    }
}

/// Drops the child's copy of `guard`. Returns the guard, and the reason of the loss that the child
/// saw.
///
/// # Panics
/// If the guard is still valid in the child.
pub fn dropped_in_a_child(guard: blocking::Guard) -> (blocking::Guard, String) {
    forked(guard, |guard| {
        let lost = guard.check().expect_err("the child does not hold the lock");
        drop(guard);
        format!("{:?}", lost.reason)
    })
}

/// Tries to acquire `name` and releases it. Returns what happened, in words.
pub fn attempt(locker: &blocking::Locker, name: &str) -> String {
    match locker.lock(name).try_acquire() {
        Ok(blocking::TryAcquire::Acquired(guard)) => format!("{name} acquired, {:?}", guard.release()),
        Ok(blocking::TryAcquire::Contended(_)) => format!("{name} contended"),
        Err(error) => format!("{error:?}"),
    }
}
