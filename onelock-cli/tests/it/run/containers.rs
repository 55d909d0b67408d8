//! Containers that refuse system calls, have no `/proc`, or have a read-only root.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use super::fixture::{Locks, Running, output, without_preferences};

const PROGRAM: &str = env!("CARGO_BIN_EXE_onelock");

/// Compiles a program that runs another one under a profile of the time before Linux 5.1. The
/// profile refuses newer system calls with EPERM. It answers ENOSYS to `clone3`, without which the
/// C library starts no thread.
fn old_profile(locks: &Locks) -> PathBuf {
    locks.program(
        r#"
        #include <errno.h>
        #include <linux/filter.h>
        #include <linux/seccomp.h>
        #include <stddef.h>
        #include <sys/prctl.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        #define LOAD BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
        #define ANSWER(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error)
        #define ON(compare, number, error) BPF_JUMP(BPF_JMP | compare | BPF_K, number, 0, 1), ANSWER(error)
        int main(int count, char **arguments) {
            struct sock_filter code[] = {
                LOAD,
                ON(BPF_JEQ, SYS_clone3, ENOSYS),
                ON(BPF_JEQ, SYS_statx, EPERM),
                ON(BPF_JEQ, SYS_renameat2, EPERM),
                ON(BPF_JEQ, SYS_copy_file_range, EPERM),
                ON(BPF_JGE, 424, EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            struct sock_fprog profile = { sizeof code / sizeof *code, code };
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 125;
            if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &profile) != 0) return 125;
            execvp(arguments[1], arguments + 1);
            return 126;
        }"#,
    )
}

/// Runs a line of the shell, in which `onelock` is this program, in namespaces of its own.
fn in_namespaces(options: &[&str], line: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).args(options);
    command.args(["sh", "-c", &format!("set -e; onelock() {{ {PROGRAM} \"$@\"; }}; {line}")]);
    output(without_preferences(&mut command))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
// verifies: containers
fn every_command_works_under_an_old_seccomp_profile() {
    let locks = Locks::new();
    let (profile, url) = (old_profile(&locks), locks.url());
    let directory = url.strip_prefix("file://").unwrap();
    let under_profile = |arguments: &[&str]| {
        let mut command = Command::new(&profile);
        let done = output(without_preferences(command.arg(PROGRAM).args(arguments)));
        (done.status.code().unwrap(), text(&done.stdout).to_owned(), text(&done.stderr).to_owned())
    };
    // Each name is used twice, because the second record replaces the first one.
    for _ in 0..2 {
        for form in [&["run"][..], &["run", "--no-fork"]] {
            let arguments = [form, &["--url", &url, "x", "echo", "ran"]].concat();
            assert_eq!(under_profile(&arguments), (0, "ran\n".into(), String::new()), "{arguments:?}");
        }
    }
    let mut holder = Running::start(Command::new(&profile).arg(PROGRAM).args([
        "run",
        "--url",
        &url,
        "x",
        "-c",
        "echo held; sleep 1000",
    ]));
    holder.expect_line("held");
    assert_eq!(under_profile(&["run", "-n", "--url", &url, "x", "true"]).0, 1);
    let (code, held, _) = under_profile(&["status", "--url", &url, "x"]);
    assert!(code == 0 && held.starts_with("x is held by "), "{code} {held}");
    let (code, listed, _) = under_profile(&["list", "--url", &url]);
    assert!(code == 0 && listed.contains("x"), "{code} {listed}");
    assert_eq!(under_profile(&["sweep", directory]).0, 0);
    if nix::unistd::geteuid().is_root() {
        let other = std::path::Path::new(directory).join("other.lock");
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::chown(other, Some(12_345), None).unwrap();
    }
    let (code, report, message) = under_profile(&["doctor", "--url", &url]);
    assert!(code == 0 && report.ends_with("\nfit for locks\n"), "{report} {message}");
    assert!(!report.contains("cannot be written"), "{report}");
    // The loss of a lock is noticed, and the command ends.
    std::fs::remove_file(locks.file()).unwrap();
    holder.ends_with(75);
}

#[test]
// verifies: containers
fn a_missing_proc_permits_only_a_run_without_fork() {
    let locks = Locks::new();
    let url = locks.url();
    let refusal = "onelock: /proc does not list this process, so processes of the command could outlive the lock; \
                   mount the /proc of this PID namespace, or use --no-fork with locks in files\n";
    // The second one sees the /proc of other processes.
    for (options, hide) in [(&[][..], "mount -t tmpfs none /proc;"), (&["--pid", "--fork"], "")] {
        let refused = in_namespaces(options, &format!("{hide} onelock run --url {url} x echo ran"));
        assert_eq!(text(&refused.stderr), refusal);
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(71), ""));
        let ran = in_namespaces(
            options,
            &format!("{hide} onelock run --no-fork --url {url} x echo ran; onelock list --url {url}"),
        );
        assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(0), "ran\n"), "{}", text(&ran.stderr));
    }
}

#[test]
// verifies: containers
fn a_read_only_root_needs_only_a_writable_lock_directory() {
    let locks = Locks::new();
    let home = locks.dir.path().display();
    let url = locks.url();
    let line = format!(
        "mkdir {home}/locks {home}/home; mount --bind {home}/locks {home}/locks; \
         mount --bind {home} {home} -o ro; mount -o remount,ro,bind {home}; mount -t tmpfs none {home}/locks; \
         onelock run --url {url} x echo ran; onelock run -n --no-fork --url {url} x echo again; \
         HOME={home}/home XDG_STATE_HOME= onelock run x echo never"
    );
    let done = in_namespaces(&[], &line);
    assert_eq!((done.status.code(), text(&done.stdout)), (Some(73), "ran\nagain\n"), "{}", text(&done.stderr));
    let message = text(&done.stderr);
    assert!(message.contains(&format!("{home}/home/.local")) && message.contains("read-only"), "{message}");
}
