//! A lock that ends before the client is told of it: the client gets no lock, and lives on.

use std::{io::Read, process::Stdio};

use super::fixture::refuses_its_client;
use crate::run::fixture::{Locks, full_pipe, onelock};

/// The library freezes the watchdog until after the end of the lock.
#[test]
fn a_thawed_watchdog_does_not_end_a_client_without_a_lock() {
    let locks = Locks::new();
    let freeze = locks.watchdog_library("sleep(3);");
    let message = refuses_its_client(&locks, "memory:?max_hold=2s", &freeze);
    assert!(message.contains("; the client was not told of the lock"), "{message}");
}

/// `onelock hold -v` waits a second until the message that names the default store is read.
#[test]
fn a_client_is_not_told_of_a_lock_that_has_ended() {
    let locks = Locks::new();
    let (_reader, full) = full_pipe();
    let mut hold = onelock(["hold", "-v", "--on-loss", "tell", "--max-hold", "500ms", "x"]);
    let hold = hold.env("XDG_STATE_HOME", locks.dir.path());
    let mut hold = hold.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(full).spawn().unwrap();
    let mut told = String::new();
    hold.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((told.as_str(), hold.wait().unwrap().code()), ("", Some(75)));
}
