//! The commands of operators.

use std::{fs, os::unix::fs::symlink, process::Command};

use nix::sys::signal::SIGKILL;

use super::fixture::{Locks, Running, code, eventually, onelock, output, stdout};

fn holder(locks: &Locks, name: &str) -> Running {
    let mut holder =
        Running::start(&mut locks.run(["--owner", "nightly \"job\"", name, "-c", "echo $ONELOCK_TOKEN; sleep 1000"]));
    assert!(!holder.line().is_empty());
    holder
}

/// Returns the message that names the store.
fn asked(locks: &Locks) -> String {
    format!("onelock: asked {}\n", locks.url())
}

#[test]
// verifies: asking
fn asking_a_missing_directory_is_an_error_and_creates_nothing() {
    let locks = Locks::new();
    let home = locks.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    for url in [&["--url", &locks.url()][..], &["--url", &format!("{}?mode=660", locks.url())], &[]] {
        for args in [&["status", "x"][..], &["status", "--json", "x"], &["list"], &["break", "--if-version", "1", "x"]]
        {
            let mut command = onelock([]);
            command.arg(args[0]).args(url).args(&args[1..]).env("HOME", &home).env_remove("XDG_STATE_HOME");
            let asked = output(&mut command);
            let message = String::from_utf8(asked.stderr).unwrap();
            assert_eq!((asked.status.code(), asked.stdout.len()), (Some(73), 0), "{args:?}: {message}");
            let directory =
                if url.is_empty() { home.join(".local/state/onelock/locks") } else { locks.dir.path().join("locks") };
            let expected = format!("the directory {} does not exist", directory.display());
            assert!(message.contains(&expected) && message.lines().count() == 1, "{args:?}: {message}");
            assert!(!directory.exists() && !home.join(".local").exists(), "{args:?}");
        }
    }
}

#[test]
// verifies: hostile-answers
fn a_hostile_owner_stays_in_one_harmless_line() {
    let locks = Locks::new();
    let owner = "a\u{1b}[2Jb\r\nx is free\u{9b}2J\u{202e}";
    let mut holder = Running::start(&mut locks.run(["--owner", owner, "x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    let url = locks.url();
    for args in [&["status", "x"][..], &["list"], &["status", "--json", "x"], &["list", "--json"]] {
        let shown = stdout(onelock([]).arg(args[0]).args(["--url", &url]).args(&args[1..]));
        shown.split_inclusive('\n').for_each(assert_harmless);
        if args.contains(&"--json") {
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown["owner"], owner);
        }
    }
    for args in [
        &["run", "-n", "-v", "x", "true"][..],
        &["run", "-w", "0.05", "-v", "x", "true"],
        &["break", "--if-version", "1", "x"],
    ] {
        let refused = output(onelock([]).arg(args[0]).args(["--url", &url]).args(&args[1..]));
        String::from_utf8(refused.stderr).unwrap().split_inclusive('\n').for_each(assert_harmless);
    }
}

#[track_caller]
fn assert_harmless(line: &str) {
    let text = line.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {line:?}"));
    assert!(!text.is_empty() && !text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
}

#[test]
fn status_shows_whether_and_by_whom_a_lock_is_held() {
    let locks = Locks::new();
    fs::create_dir(locks.dir.path().join("locks")).unwrap();
    let status = |json: &[&str]| output(onelock(["status", "--url", &locks.url()]).args(json).arg("x"));
    assert_eq!(code(&mut locks.run(["x", "true"])), 0);
    let free = String::from_utf8(status(&[]).stdout).unwrap();
    assert!(free.starts_with("x is free\n") && free.ends_with(&format!("\n  store    {}\n", locks.url())), "{free}");
    assert_eq!(status(&[]).status.code(), Some(1));
    let _holder = holder(&locks, "x");
    let held = status(&[]);
    assert_eq!(held.status.code(), Some(0));
    let text = String::from_utf8(held.stdout).unwrap();
    assert!(text.starts_with("x is held by nightly \\\"job\\\" for "), "{text}");

    let held: serde_json::Value = serde_json::from_slice(&status(&["--json"]).stdout).unwrap();
    assert_eq!(held["owner"], "nightly \"job\"");
    assert!(
        held["held"] == true && held["token"].is_u64() && held["since"].is_f64() && held["expires_in"].is_null(),
        "{held}"
    );
    assert!(held["held_for"].is_f64(), "{held}");
}

#[test]
fn warnings_of_the_store_are_shown_in_one_line() {
    let locks = Locks::new();
    assert_eq!(code(&mut locks.run(["x", "true"])), 0);
    let record = locks.dir.path().join("locks/x.info");
    fs::write(&record, "onelock/7 \u{1b}[2J").unwrap();
    let message = Running::start(&mut locks.run(["x", "true"])).ends_with(0);
    let expected = format!("(file: {})\n", record.display());
    assert!(message.starts_with("onelock: warning: replacing an invalid lock record") && message.ends_with(&expected));
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
// verifies: asking
fn flock_1_is_named_after_the_crash_of_a_holder() {
    let locks = Locks::new();
    let crashed = holder(&locks, "x");
    crashed.signal(SIGKILL);
    crashed.wait();
    eventually("the lock is free", || locks.is_free());
    let mut flock = Command::new("flock");
    flock.arg("-F").arg(locks.file()).args(["sh", "-c", "echo held; kill -STOP $$"]);
    let mut flock = Running::start(&mut flock);
    flock.expect_line("held");
    let living = format!("process {} (sh) without a record", flock.pid());
    let asked = |args: &[&str]| String::from_utf8(output(onelock([]).args(args).args(["--url", &locks.url()])).stdout);
    let (pid, host) = (flock.pid(), nix::unistd::gethostname().unwrap().into_string().unwrap());
    let expected = format!("x is held by {living}\n  process  {pid} on {host}\n  store    {}\n", locks.url());
    assert_eq!(asked(&["status", "x"]).unwrap(), expected);
    assert!(asked(&["list"]).unwrap().contains(&format!("\nx     {living} ")));
    let (status, message) = Running::start(&mut locks.run(["-n", "-v", "x", "true"])).wait();
    assert_eq!((status.code(), message.as_str()), (Some(1), format!("onelock: \"x\" is held by {living}\n").as_str()));
}

#[test]
// verifies: asking
fn questions_about_a_missing_directory_name_it() {
    let locks = Locks::new();
    let directory = locks.dir.path().join("locks");
    for args in [&["status", "x"][..], &["list"]] {
        let refused = output(onelock([args[0], "--url", &locks.url()]).args(&args[1..]));
        assert_eq!(refused.status.code(), Some(73));
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains(&format!("{} does not exist", directory.display())), "{message}");
        assert!(!directory.exists());
    }
}

#[test]
fn list_shows_held_locks_by_prefix() {
    let locks = Locks::new();
    let _holders = ["etl/a", "etl/b", "web"].map(|name| holder(&locks, name));
    let list = |args: &[&str]| stdout(onelock(["list", "--url", &locks.url()]).args(args));
    let names = |text: String| text.lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(list(&[])), ["NAME", "etl/a", "etl/b", "web"]);
    assert_eq!(names(list(&["etl/"])), ["NAME", "etl/a", "etl/b"]);
    let none = output(&mut onelock(["list", "--url", &locks.url(), "nothing"]));
    assert_eq!((none.status.code(), String::from_utf8(none.stdout).unwrap().as_str()), (Some(0), ""));
    assert_eq!(String::from_utf8(none.stderr).unwrap(), asked(&locks));
    let lines = list(&["--json", "web"]);
    let web: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(web["name"], "web");
}

#[test]
// verifies: odd-entries
fn list_reports_odd_entries_and_lists_the_rest() {
    let locks = Locks::new();
    let _holders = ["a", "z"].map(|name| holder(&locks, name));
    // The name of the directory is hostile too.
    let directory = locks.dir.path().join("lo\u{202e}cks");
    symlink(locks.dir.path().join("locks"), &directory).unwrap();
    symlink("/nowhere", directory.join("m.lock")).unwrap();
    let url = format!("file://{}", directory.display());
    let list = |args: &[&str]| output(onelock(["list", "--url", &url]).args(args));
    let shown = list(&[]);
    assert_eq!(shown.status.code(), Some(65));
    let names = |text: Vec<u8>| {
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(shown.stdout), ["NAME", "a", "z"]);
    let message = String::from_utf8(shown.stderr).unwrap();
    assert_harmless(&message);
    assert!(message.starts_with("onelock: cannot read an entry: cannot inspect the lock file "), "{message}");
    assert!(message.contains("/m.lock: a symbolic link is in the way"), "{message}");
    // Another prefix has no odd entry.
    assert_eq!(list(&["a"]).status.code(), Some(0));
    let shown = list(&["--json", "m"]);
    assert_eq!(shown.status.code(), Some(65));
    let line = String::from_utf8(shown.stdout).unwrap();
    assert_harmless(&line);
    let odd: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&odd["odd"], &odd["place"]), (&true.into(), &directory.join("m.lock").to_str().unwrap().into()));
    assert!(odd["reason"].as_str().unwrap().contains("symbolic link"), "{odd}");
    for n in 0..120 {
        symlink("/nowhere", directory.join(format!("n{n}.lock"))).unwrap();
    }
    let message = String::from_utf8(list(&["n"]).stderr).unwrap();
    assert_eq!(message.lines().filter(|line| line.contains("symbolic link")).count(), 100, "{message}");
    assert!(message.contains("onelock: 20 more entries cannot be read\n"), "{message}");
}

#[test]
fn break_on_files_is_refused_with_a_reason() {
    let locks = Locks::new();
    fs::create_dir(locks.dir.path().join("locks")).unwrap();
    let args = ["break", "--url", &locks.url(), "--if-version", "1", "x"];
    assert_eq!(code(&mut locks.run(["x", "true"])), 0);
    assert_eq!(code(&mut onelock(args)), 1, "a free lock must not be broken");
    let _holder = holder(&locks, "x");
    let refused = output(&mut onelock(args));
    assert_eq!(refused.status.code(), Some(78));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("stop the holder's process"), "{message}");
    assert!(!locks.is_free());
}

#[test]
fn sweep_removes_idle_names_and_lists_them() {
    let locks = Locks::new();
    let _held = holder(&locks, "held");
    assert_eq!(code(&mut locks.run(["idle", "true"])), 0);
    let directory = locks.url().trim_start_matches("file://").to_owned();
    let sweep = |args: &[&str]| stdout(onelock(["sweep"]).args(args).arg(&directory));
    assert_eq!(sweep(&[]), "", "no name has been idle for 30 days");
    let idle = format!("{directory}/idle.lock\n");
    assert_eq!(
        sweep(&["--idle", "0s", "--dry-run"]).lines().count(),
        2,
        "a dry run does not check whether a lock is held"
    );
    assert_eq!(sweep(&["--idle", "0s"]), idle);
    assert_eq!(sweep(&["--idle", "0s"]), "");
    assert_ne!(code(&mut onelock(["sweep", "/no/such/directory"])), 0);
}
