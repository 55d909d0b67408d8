//! `onelock doctor --peer`: two processes stand for two hosts.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;

use super::fixture::{Locks, onelock};

/// Runs the doctor on both stores at once; returns each finding on "two hosts" and the exit code.
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
    let found = found.unwrap_or_else(|| panic!("no finding on two hosts in {report:#}"));
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

/// Compiles a library in which `flock` succeeds without locking, as on a mount whose locks do not
/// reach the server.
fn without_locks(locks: &Locks) -> PathBuf {
    locks.library("int flock(int fd, int operation) { return 0; }")
}

#[test]
fn two_hosts_on_one_directory_exclude_each_other() {
    let url = &Locks::new().url();
    check(&meet([url, url], "2m", None), "good", "exclude each other", 0);
}

#[test]
fn the_doctor_detects_two_holders_without_exclusion() {
    let locks = Locks::new();
    let library = without_locks(&locks);
    check(&meet([&locks.url(), &locks.url()], "2m", Some(&library)), "unfit", "held the same lock at the same time", 1);
}

#[test]
fn a_transient_error_does_not_end_the_check() {
    let locks = Locks::new();
    // Another holder of the same lock may move the temporary record away.
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
fn two_hosts_on_different_stores_never_meet() {
    let (one, two) = (Locks::new(), Locks::new());
    check(&meet([&one.url(), &two.url()], "4s", None), "unfit", "no other host was met within 4s", 1);
}

#[cfg(feature = "redis")]
#[test]
fn two_hosts_on_one_redis_exclude_each_other() {
    let server = test_support::redis::RedisServer::start();
    let url = &format!("redis://{}", server.addr());
    check(&meet([url, url], "2m", None), "good", "exclude each other", 0);
}
