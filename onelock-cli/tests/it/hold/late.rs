//! A lock that ends before the client is told of it: the client gets no lock, and lives on.

use std::{io::Read, process::Stdio};

use super::fixture::{Process, client};
use crate::run::fixture::{Locks, full_pipe, onelock};

/// The library freezes the watchdog until after the end of the lock.
#[test]
fn a_thawed_watchdog_does_not_end_a_client_without_a_lock() {
    let locks = Locks::new();
    let freeze = locks.library(
        r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/socket.h>
        #include <unistd.h>
        ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
            char name[16] = "";
            ssize_t got = ((ssize_t (*)(int, struct msghdr *, int)) dlsym(RTLD_NEXT, "recvmsg"))(fd, message, flags);
            prctl(PR_GET_NAME, name);
            if (got > 0 && strcmp(name, "lock-watchdog") == 0) {
                sleep(3);
            }
            return got;
        }"#,
    );
    let script = r#"
coproc LOCK { exec env LD_PRELOAD="$1" onelock hold x; }
read -r -u "${LOCK[0]}" held || echo refused
"#;
    let script = locks.script("bash", script);
    let mut script = client(&script, &[freeze.to_str().unwrap()]);
    let mut script = Process::start(script.env("ONELOCK_URL", "memory:?max_hold=2s"));
    script.expect("refused");
    let message = script.ends_with(0);
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
