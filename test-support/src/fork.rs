//! Forks without exec, as an interpreter or a pre-forking server makes them.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

use lock_core::{LossReason, Release, blocking};
use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, alarm, fork, pipe},
};

/// The longest time of a child, in seconds. Long against its work on a busy machine.
const CHILD_ENDS: u32 = 60;

/// Forks. The child passes its copy of `value` to `work` and ends without running destructors.
/// Returns the parent's `value` and what `work` returned.
///
/// The child has no other thread of this process, so `work` must use none.
///
/// # Panics
/// If the system refuses the fork, or if `work` panics or hangs for a minute.
#[expect(unsafe_code, reason = "fork is unsafe where other threads hold locks")]
pub fn forked<T>(value: T, work: impl FnOnce(T) -> String) -> (T, String) {
    let (from_child, to_parent): (OwnedFd, OwnedFd) = pipe().expect("a pipe for the answer");
    // SAFETY: the locks of the C library are usable in the child, and tests hold no others across
    // this call.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Child => {
            // Its signal ends a child that hangs, for example in a mutex that stayed locked.
            alarm::set(CHILD_ENDS);
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
            assert!(!answer.is_empty(), "the work of the child panicked or hung");
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

/// Checks that a child which drops or releases its copy of a guard, or drops its copy of the
/// locker, leaves the lock to its parent. `is_free` asks another client whether `etl` is free.
///
/// # Panics
/// If the child frees the lock.
pub fn assert_a_child_leaves_the_lock(locker: blocking::Locker, is_free: impl Fn() -> bool) {
    let guard = locker.acquire("etl").expect("the lock is free");
    let (guard, reason) = dropped_in_a_child(guard);
    assert_eq!(reason, format!("{:?}", LossReason::Forked { parent: std::process::id() }));
    assert!(guard.check().is_ok() && !is_free(), "the child dropped its copy of the guard");
    let (guard, released) = forked(guard, |guard| format!("{:?}", guard.release()));
    assert_eq!(released, "Ok(NotHeld(None))");
    assert!(guard.check().is_ok() && !is_free(), "the child released its copy of the guard");
    let (locker, dropped) = forked(locker, |locker| {
        drop(locker);
        "dropped".to_owned()
    });
    assert_eq!(dropped, "dropped");
    assert!(guard.check().is_ok() && !is_free(), "the child dropped its copy of the locker");
    assert_eq!(guard.release().expect("the store answers"), Release::Released);
    assert!(is_free());
    drop(locker);
}

/// Checks that a locker opened before a fork works in both processes, and in a fork of the fork.
///
/// # Panics
/// If it does not.
pub fn assert_a_locker_works_in_both(locker: blocking::Locker) {
    let guard = locker.acquire("etl").expect("the lock is free");
    let both = |locker: &blocking::Locker| format!("{}; {}", attempt(locker, "etl"), attempt(locker, "other"));
    let (locker, said) = forked(locker, |locker| both(&locker));
    assert_eq!(said, "etl contended; other acquired, Ok(Released)");
    // A fork of a fork opens the store once more.
    let (locker, said) = forked(locker, |locker| {
        let first = attempt(&locker, "other");
        let (_, second) = forked(locker, |locker| both(&locker));
        format!("{first}; {second}")
    });
    assert_eq!(said, "other acquired, Ok(Released); etl contended; other acquired, Ok(Released)");
    assert_eq!(attempt(&locker, "other"), "other acquired, Ok(Released)");
    assert_eq!(guard.release().expect("the store answers"), Release::Released);
}

/// Returns once the standard input ends, for a child that must outlive its killed parent, but not
/// the test that holds the other end.
///
/// # Panics
/// If the input cannot be read.
pub fn wait_for_the_end_of_input() {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).expect("the input is a pipe");
}

/// Tries to acquire `name` and releases it. Returns what happened, in words.
pub fn attempt(locker: &blocking::Locker, name: &str) -> String {
    match locker.lock(name).try_acquire() {
        Ok(blocking::TryAcquire::Acquired(guard)) => format!("{name} acquired, {:?}", guard.release()),
        Ok(blocking::TryAcquire::Contended(_)) => format!("{name} contended"),
        Err(error) => format!("{error:?}"),
    }
}
