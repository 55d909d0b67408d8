//! A lock that is named by the path of its file is the lock of `flock(1)` on that file.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{sys::signal::SIGKILL, unistd::geteuid};

use super::fixture::{Locks, Running, code, eventually, onelock, output, read};

/// Names of files that an encoded name cannot have.
const FILES: [&str; 5] = [".myscript.exclusivelock", "backup.pid", "Backup.lock", "x.lock", "à b"];

/// Holds `file` with `flock(1)` until it is dropped.
pub(super) fn flock(options: &[&str], file: &Path) -> Running {
    let mut flock = Command::new("flock");
    flock.args(options).arg("-F").arg(file).args(["sh", "-c", "echo held; kill -STOP $$"]);
    let mut flock = Running::start(&mut flock);
    flock.expect_line("held");
    flock
}

/// Whether `flock(1)` is refused.
fn refuses_flock(file: &Path) -> bool {
    let refused = Command::new("flock").args(["-n", "-E", "9"]).arg(file).arg("true").status().unwrap();
    assert!([Some(0), Some(9)].contains(&refused.code()), "{refused}");
    refused.code() == Some(9)
}

/// The ways to name a file: its path, a relative one, and a store of plain names.
fn spellings(file: &Path) -> [Vec<String>; 3] {
    let (directory, name) = (file.parent().unwrap(), file.file_name().unwrap().to_str().unwrap());
    let url = format!("--url=file://{}?names=plain", directory.display());
    [vec![file.to_str().unwrap().to_owned()], vec![format!("./{name}")], vec![url, name.to_owned()]]
}

#[test]
// verifies: foreign-client
fn a_path_and_flock_exclude_each_other() {
    let locks = Locks::new();
    for name in FILES {
        let file = locks.dir.path().join(name);
        for spelling in spellings(&file) {
            let run = |options: &[&str], command: &str| {
                let mut run = onelock(["run"]);
                run.args(options).args(&spelling).args(["-c", command]).current_dir(locks.dir.path());
                run
            };
            let holder = flock(&[], &file);
            let refused = output(&mut run(&["-n", "-v"], "true"));
            let message = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(1), "{spelling:?}: {message}");
            assert!(message.ends_with(" without a record\n"), "{message}");
            let mut status = onelock(["status"]);
            let text = output(status.args(&spelling).current_dir(locks.dir.path())).stdout;
            let expected = format!("is held by process {} (sh) without a record\n", holder.pid());
            assert!(String::from_utf8(text).unwrap().contains(&expected));
            drop(holder);
            let mut holder = Running::start(&mut run(&[], "echo held; sleep 1000"));
            holder.expect_line("held");
            assert!(refuses_flock(&file), "{spelling:?}");
            drop(holder);
            eventually("the lock is free", || !refuses_flock(&file));
        }
    }
}

#[test]
fn messages_and_the_command_name_the_file() {
    let locks = Locks::new();
    let file = locks.dir.path().join("backup.pid");
    let shown = file.display();
    let run = |command: &str| {
        let mut run = onelock(["run", "-n", "-v", "./backup.pid", "-c", command]);
        run.current_dir(locks.dir.path());
        run
    };
    let mut holder = Running::start(&mut run("echo $ONELOCK_NAME; sleep 1000"));
    holder.expect_line(&shown.to_string());
    let message = String::from_utf8(output(&mut run("true")).stderr).unwrap();
    assert!(message.starts_with(&format!("onelock: \"{shown}\" is held by ")), "{message}");
    let status =
        |args: &[&str]| output(onelock(["status"]).args(args).arg("./backup.pid").current_dir(locks.dir.path()));
    let text = String::from_utf8(status(&[]).stdout).unwrap();
    assert!(text.starts_with(&format!("{shown} is held by ")), "{text}");
    let held: serde_json::Value = serde_json::from_slice(&status(&["--json"]).stdout).unwrap();
    assert_eq!((&held["name"], &held["held"]), (&shown.to_string().into(), &true.into()));
    holder.signal(SIGKILL);
    eventually("the lock is free", || !refuses_flock(&file));
    assert_eq!(status(&[]).status.code(), Some(1));
    let listed = output(&mut onelock(["list", "--url", &format!("file://{}?names=plain", locks.dir.path().display())]));
    assert_eq!(listed.status.code(), Some(0));
}

#[test]
fn hold_locks_the_file_too() {
    let locks = Locks::new();
    let file = locks.dir.path().join(".exclusivelock");
    let script = locks.script(
        "bash",
        "coproc LOCK { exec onelock hold -w 10 \"$1\"; }\nread -r -u \"${LOCK[0]}\" held || exit 1\n\
         echo \"$held\"\nflock -n -E 9 \"$1\" true\necho \"refused $?\"\nexec {LOCK[1]}>&-\nwait\n\
         flock -n \"$1\" true\necho \"free $?\"\n",
    );
    let mut script = Command::new(script);
    script.arg(&file).env_remove("ONELOCK_URL").env("PATH", path_with_onelock());
    let text = String::from_utf8(output(&mut script).stdout).unwrap();
    let expected = format!("held {} token=", file.display());
    assert!(text.starts_with(&expected) && text.ends_with("refused 9\nfree 0\n"), "{text}");
}

pub(super) fn path_with_onelock() -> String {
    let directory = Path::new(env!("CARGO_BIN_EXE_onelock")).parent().unwrap();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

#[test]
// verifies: not-ours, foreign-client
fn a_file_of_another_program_stays_as_it_is() {
    let locks = Locks::new();
    let file = locks.dir.path().join("job.sh");
    fs::write(&file, "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o555)).unwrap();
    let before = fs::metadata(&file).unwrap();
    // The script itself is the lock file, and it is executed while it is locked.
    let path = file.to_str().unwrap();
    assert_eq!(super::fixture::stdout(&mut onelock(["run", "-n", path, path])), "ran\n");
    let after = fs::metadata(&file).unwrap();
    assert_eq!(read(&file), "#!/bin/sh\necho ran\n");
    assert_eq!((after.permissions(), after.modified().unwrap()), (before.permissions(), before.modified().unwrap()));
}

#[test]
fn a_new_lock_file_has_the_permissions_of_flock() {
    let locks = Locks::new();
    let mode = |name: &str| fs::metadata(locks.dir.path().join(name)).unwrap().permissions().mode();
    let directory = locks.dir.path().to_str().unwrap();
    for umask in ["022", "027", "077"] {
        let run = format!("umask {umask}; flock theirs-{umask} true; onelock run ./ours-{umask} true");
        let mut shell = Command::new("sh");
        shell.args(["-ec", &run]).current_dir(directory).env("PATH", path_with_onelock()).env_remove("ONELOCK_URL");
        assert_eq!(code(&mut shell), 0);
        assert_eq!(mode(&format!("ours-{umask}")), mode(&format!("theirs-{umask}")), "{umask}");
    }
}

#[test]
fn a_directory_is_a_lock_as_with_flock() {
    let locks = Locks::new();
    let directory = locks.dir.path().join("data");
    fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap();
    assert_eq!(code(&mut onelock(["run", "-n", path, "true"])), 0);
    let mut holder = Running::start(&mut onelock(["run", path, "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    assert!(refuses_flock(&directory));
    drop(holder);
    eventually("the lock is free", || !refuses_flock(&directory));
    assert_eq!(code(&mut onelock(["status", path])), 1);
    let holder = flock(&[], &directory);
    assert_eq!((code(&mut onelock(["run", "-n", path, "true"])), code(&mut onelock(["status", path]))), (1, 0));
    drop(holder);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn shared_locks_of_flock_and_a_path_coexist() {
    let locks = Locks::new();
    let file = locks.dir.path().join("x");
    let path = file.to_str().unwrap();
    let holder = flock(&["-s"], &file);
    assert_eq!(code(&mut onelock(["run", "-n", "-s", path, "true"])), 0);
    assert_eq!(code(&mut onelock(["run", "-n", path, "true"])), 1);
    drop(holder);
    let mut holder = Running::start(&mut onelock(["run", "-s", path, "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let try_flock = |mode: &str| Command::new("flock").args([mode, "-n", path, "true"]).status().unwrap().code();
    assert_eq!((try_flock("-s"), try_flock("-x")), (Some(0), Some(1)));
}

/// The two spellings of one file share its tokens.
#[test]
fn a_name_and_its_lock_file_are_one_lock() {
    let locks = Locks::new();
    let token = |command: &mut Command| super::fixture::stdout(command).trim().parse::<u64>().unwrap();
    let by_name = || token(&mut locks.run(["x", "-c", "echo $ONELOCK_TOKEN"]));
    let file = locks.file();
    let by_path = || token(&mut onelock(["run", file.to_str().unwrap(), "-c", "echo $ONELOCK_TOKEN"]));
    let first = by_name();
    // A record from the future, as a clock that was set back leaves it.
    let record = locks.dir.path().join("locks/x.info");
    let ahead = first + 3_600_000_000;
    fs::write(&record, read(&record).replace(&first.to_string(), &ahead.to_string())).unwrap();
    let tokens = [ahead, by_path(), by_name(), by_path()];
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn paths_that_name_no_lock_file_are_refused() {
    let locks = Locks::new();
    let directory = locks.dir.path();
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    symlink(at("elsewhere"), at("link")).unwrap();
    symlink("elsewhere", at("relative")).unwrap();
    let refuse = |path: &str, expected: i32, text: &str| {
        for args in [&["run", "-n", path, "true"][..], &["status", path]] {
            let refused = output(onelock([]).args(args));
            let message = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(expected), "{args:?}: {message}");
            assert!(message.contains(text), "{message}");
        }
    };
    for link in ["link", "relative"] {
        let advice = "is a symbolic link, which is not followed; name the lock file itself:";
        refuse(&at(link), 73, &format!("{advice} {}", at("elsewhere")));
    }
    refuse(&at("missing/x.lock"), 73, "does not exist");
    refuse("/", 64, "does not end with the name of a file");
    refuse(&at("x.info"), 78, "the name of a file that onelock itself writes");
    assert!(!directory.join("elsewhere").exists() && !directory.join("missing").exists());
}

#[test]
fn a_store_makes_a_path_an_error_and_a_slash_a_name() {
    let locks = Locks::new();
    let path = locks.dir.path().join("x.lock");
    let path = path.to_str().unwrap();
    for args in [&["run", "-n", path, "true"][..], &["status", path]] {
        let mut command = onelock([]);
        let refused = output(command.args(args).env("ONELOCK_URL", locks.url()));
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{message}");
        assert!(message.contains("looks like a path, but $ONELOCK_URL chooses a store"), "{message}");
    }
    assert_eq!(code(&mut locks.run(["-n", "etl/a", "true"])), 0);
    assert!(locks.dir.path().join("locks/etl%2fa.lock").exists());
    // An absolute path is a directory of locks.
    let directory = locks.dir.path().join("locks");
    assert_eq!(code(&mut onelock(["status", "--url", directory.to_str().unwrap(), "etl/a"])), 1);
}

/// As for cron jobs of several users in /var/lock, and for scripts in /usr/local/bin.
#[test]
fn other_users_lock_a_file_that_they_can_only_read() {
    if !geteuid().is_root() {
        return;
    }
    let locks = Locks::new();
    let program = locks.program_for_all();
    for (directory, mode) in [("sticky", 0o1777), ("readable", 0o755)] {
        let directory = locks.dir.path().join(directory);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        let file = directory.join("job.sh");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let by = |user: &str, args: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(&program).args(args);
            command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
            command
        };
        let path = file.to_str().unwrap();
        let token = |user: &str| {
            let ran = output(&mut by(user, &["run", "-n", path, "-c", "echo $ONELOCK_TOKEN"]));
            assert_eq!(ran.stderr, b"", "{user}: {ran:?}");
            String::from_utf8(ran.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        let tokens = ["0", "54321", "54322", "0", "54321"].map(token);
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
        // Root's run is killed. Users who may not change its record hear of no crash, in no run.
        let mut killed = Running::start(&mut by("0", &["run", path, "-c", "echo held; sleep 1000"]));
        killed.expect_line("held");
        killed.signal(SIGKILL);
        eventually("the lock is free", || !refuses_flock(&file));
        token("54321");
        token("54322");
        let mut holder = Running::start(&mut by("54321", &["run", path, "-c", "echo held; sleep 1000"]));
        holder.expect_line("held");
        assert_eq!(code(&mut by("54322", &["run", "-n", path, "true"])), 1);
        assert_eq!(code(&mut by("54322", &["status", path])), 0);
        assert!(refuses_flock(&file));
    }
}

/// `onelock run` waits for a lock of `flock(1)`, and acquires it when that ends.
#[test]
fn a_waiter_gets_the_file_from_flock() {
    let locks = Locks::new();
    let file = locks.dir.path().join("backup.pid");
    let holder = flock(&[], &file);
    let mut waiter = Running::start(&mut onelock(["run", "-v", file.to_str().unwrap(), "-c", "echo next"]));
    waiter.expect_waiting();
    drop(holder);
    waiter.expect_line("next");
}

#[test]
fn a_sweep_leaves_plain_names_alone() {
    let locks = Locks::new();
    let files = ["backup.pid", "Backup.lock", "backup.lock"].map(|name| locks.dir.path().join(name));
    for file in &files {
        assert_eq!(code(&mut onelock(["run", file.to_str().unwrap(), "true"])), 0);
    }
    let before = entries(locks.dir.path());
    let swept = output(&mut onelock(["sweep", "--idle", "0s", locks.dir.path().to_str().unwrap()]));
    assert_eq!((swept.status.code(), swept.stdout.len()), (Some(0), 0), "{swept:?}");
    let mut after = entries(locks.dir.path());
    after.retain(|path| !path.ends_with(".onelock-floor"));
    assert_eq!(after, before);
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
