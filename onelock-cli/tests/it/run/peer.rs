//! `onelock doctor --peer`: two processes stand for two hosts.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;

use super::fixture::{Locks, onelock};

/// Runs the doctor on both stores at once; what each found on "two hosts", with the exit code.
fn meet(urls: [&str; 2], within: &str, preload: Option<&Path>) -> [(String, String, Option<i32>); 2] {
    let started = urls.map(|url| {
        let mut command = onelock(["doctor", "--json", "--url", url, "--peer", "--within", within]);
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    started.map(|child| finding(&child.wait_with_output().unwrap()))
}

fn finding(output: &Output) -> (String, String, Option<i32>) {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["subject"] == "two hosts");
    let found = found.unwrap_or_else(|| panic!("nothing on two hosts in {report:#}"));
    let word = |field: &str| found[field].as_str().unwrap().to_owned();
    (word("level"), word("text"), output.status.code())
}

#[track_caller]
fn check(found: &[(String, String, Option<i32>); 2], level: &str, words: &str, code: i32) {
    for (side, found) in found.iter().enumerate() {
        let (found_level, text, found_code) = found;
        assert_eq!((found_level.as_str(), *found_code), (level, Some(code)), "side {side}: {text}");
        assert!(text.contains(words), "side {side}: {text}");
    }
}

/// A C library in which `flock` locks nothing and says that it did, as on a mount whose locks do
/// not reach the server.
fn without_locks(locks: &Locks) -> PathBuf {
    locks.library("int flock(int fd, int operation) { return 0; }")
}

#[test]
fn two_that_share_a_directory_exclude_each_other() {
    let url = &Locks::new().url();
    check(&meet([url, url], "2m", None), "good", "exclude each other", 0);
}

#[test]
fn two_whose_locks_do_not_reach_each_other_are_found_out() {
    let locks = Locks::new();
    let library = without_locks(&locks);
    check(&meet([&locks.url(), &locks.url()], "2m", Some(&library)), "unfit", "held the same lock at the same time", 1);
}

#[test]
fn an_error_that_does_not_last_does_not_end_the_meeting() {
    let locks = Locks::new();
    // As when somebody who has the same lock takes the draft of the record away.
    let library = locks.library(
        r#"#define _GNU_SOURCE
         #include <errno.h>
         #include <fcntl.h>
         #include <string.h>
         #include <sys/syscall.h>
         #include <unistd.h>
         static int calls;
         int renameat2(int a, const char *b, int c, const char *d, unsigned e) { errno = ENOSYS; return -1; }
         int rename(const char *from, const char *to) {
             if (strstr(to, "peer.info") && calls++ == 0) { errno = ENOENT; return -1; }
             return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
         }"#,
    );
    check(&meet([&locks.url(), &locks.url()], "2m", Some(&library)), "good", "exclude each other", 0);
}

#[test]
fn two_with_a_store_each_never_meet() {
    let (one, two) = (Locks::new(), Locks::new());
    check(&meet([&one.url(), &two.url()], "4s", None), "unfit", "no other host was met within 4s", 1);
}

#[cfg(feature = "redis")]
#[test]
fn two_that_share_a_redis_exclude_each_other() {
    let server = test_support::redis::RedisServer::start();
    let url = &format!("redis://{}", server.addr());
    check(&meet([url, url], "2m", None), "good", "exclude each other", 0);
}
