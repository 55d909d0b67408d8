//! The default store: a private directory of the user.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, lchown, symlink},
    path::Path,
    process::{Command, Output},
};

use nix::unistd::geteuid;

use super::fixture::{Locks, code, onelock, output};

#[test]
fn the_default_store_is_in_the_users_state_directory() {
    let locks = Locks::new();
    let home = locks.dir.path();
    assert_eq!(code(onelock(["run", "x", "true"]).env("HOME", home).env_remove("XDG_STATE_HOME")), 0);
    let made = home.join(".local/state/onelock/locks");
    assert!(made.join("x.lock").exists());
    assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o077, 0, "the directory must be private");

    let state = home.join("state");
    assert_eq!(code(onelock(["run", "x", "true"]).env("HOME", home).env("XDG_STATE_HOME", &state)), 0);
    assert!(state.join("onelock/locks/x.lock").exists());
}

#[test]
fn the_url_option_overrides_the_environment() {
    let (one, two) = (Locks::new(), Locks::new());
    assert_eq!(code(onelock(["run", "x", "true"]).env("ONELOCK_URL", one.url())), 0);
    assert!(one.file().exists());
    assert_eq!(code(onelock(["run", "--url", &two.url(), "y", "true"]).env("ONELOCK_URL", one.url())), 0);
    assert!(!one.dir.path().join("locks/y.lock").exists());
}

/// Runs `onelock` as a user without a home, once without `HOME` and once with another user's.
#[test]
fn a_user_without_a_home_gets_a_private_directory() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let locks = Locks::new();
    let program = locks.program_for_all();
    fs::set_permissions(locks.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let uid = 40_000 + std::process::id() % 10_000;
    let private = format!("/tmp/onelock-{uid}");
    let onelock = |home: Option<&Path>, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid.to_string(), "--clear-groups"]).arg(&program).args(arguments);
        command.env_remove("HOME").env_remove("XDG_STATE_HOME").env_remove("ONELOCK_URL");
        output(command.envs(home.map(|home| ("HOME", home))))
    };
    let run = |home| onelock(home, &["run", "x", "true"]);
    for question in [&["status", "x"][..], &["list"]] {
        let asked = onelock(None, question);
        assert_eq!(asked.status.code(), Some(73), "{asked:?}");
        assert!(!Path::new(&private).exists(), "a question creates nothing");
    }
    for home in [None, Some(locks.dir.path())] {
        let ran = run(home);
        assert!(ran.status.success(), "{ran:?}");
        assert!(!locks.dir.path().join(".local").exists());
        assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
    }
    fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = run(None);
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    fs::remove_dir_all(&private).unwrap();
    symlink(locks.dir.path(), &private).unwrap();
    let refused = run(None);
    fs::remove_file(&private).unwrap();
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
}

/// Runs `onelock` with this home and state directory.
fn in_home(home: &Path, state: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = onelock([]);
    command.args(arguments).env("HOME", home).env_remove("XDG_STATE_HOME");
    output(command.envs(state.map(|state| ("XDG_STATE_HOME", state))))
}

fn message(done: &Output) -> &str {
    std::str::from_utf8(&done.stderr).unwrap()
}

/// Asserts that each command refuses the default directory for one reason, and gives a remedy.
#[track_caller]
fn assert_refused(home: &Path, state: Option<&Path>, reason: &str) {
    for arguments in
        [&["run", "-n", "x", "true"][..], &["run", "-n", "--no-fork", "x", "true"], &["status", "x"], &["list"]]
    {
        let refused = in_home(home, state, arguments);
        let message = message(&refused);
        assert_eq!((refused.status.code(), message.lines().count()), (Some(77), 1), "{arguments:?}: {message}");
        let begin = "onelock: the default directory ";
        assert!(message.starts_with(begin) && message.contains(reason), "{arguments:?}: {message}");
        assert!(message.trim_end().ends_with("name a store (--url or ONELOCK_URL)"), "{message}");
    }
}

#[test]
fn a_default_directory_that_others_may_write_to_is_refused() {
    let locks = Locks::new();
    let home = locks.dir.path();
    let made = home.join(".local/state/onelock/locks");
    let run = || in_home(home, None, &["run", "-n", "x", "true"]).status.code();
    assert_eq!(run(), Some(0));
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o720, 0o702, 0o777, 0o1777] {
        chmod(&made, mode);
        assert_refused(home, None, &format!("run chmod go-w {}", made.display()));
    }
    chmod(&made, 0o755);
    assert_eq!(run(), Some(0));
    // Where a group of one user is the default, the umask is often 002.
    chmod(&home.join(".local"), 0o775);
    assert_eq!(run(), Some(0));
    for part in made.ancestors().skip(1).take_while(|part| home.parent() != Some(part)) {
        let mode = fs::metadata(part).unwrap().permissions().mode();
        chmod(part, 0o777);
        assert_refused(home, None, &format!("other users can access {}", part.display()));
        chmod(part, mode);
    }
    // As in /tmp, other users cannot replace what this user created.
    chmod(home, 0o1777);
    assert_eq!(run(), Some(0));
}

/// As with `HOME=/tmp`, where another user can create `.local` first.
#[test]
fn a_default_directory_of_another_user_is_refused() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can create files of another user");
        return;
    }
    const OTHER: u32 = 54_321;
    let parts = [".local", ".local/state", ".local/state/onelock", ".local/state/onelock/locks"];
    for part in parts {
        let locks = Locks::new();
        let home = locks.dir.path();
        fs::set_permissions(home, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir_all(home.join(part)).unwrap();
        lchown(home.join(part), Some(OTHER), Some(OTHER)).unwrap();
        let reason = format!("{} belongs to user {OTHER}", home.join(part).display());
        assert_refused(home, None, &reason);
        assert_eq!(fs::read_dir(home.join(part)).unwrap().count(), 0, "nothing is created in it");
    }
    for target in ["own", "missing"] {
        let locks = Locks::new();
        let home = locks.dir.path();
        fs::create_dir(home.join("own")).unwrap();
        symlink(home.join(target), home.join(".local")).unwrap();
        lchown(home.join(".local"), Some(OTHER), Some(OTHER)).unwrap();
        assert_refused(home, None, &format!("/.local belongs to user {OTHER}"));
        // A state directory is checked in the same way.
        symlink(home.join(target), home.join("onelock")).unwrap();
        lchown(home.join("onelock"), Some(OTHER), Some(OTHER)).unwrap();
        assert_refused(home, Some(home), &format!("/onelock belongs to user {OTHER}"));
    }
}

/// A login shell sets `XDG_STATE_HOME`, and cron does not.
#[test]
fn a_lock_in_both_default_directories_gets_a_warning() {
    let locks = Locks::new();
    let (home, state) = (locks.dir.path(), locks.dir.path().join("state"));
    let (without, with) = (home.join(".local/state/onelock/locks"), state.join("onelock/locks"));
    assert_eq!(message(&in_home(home, Some(&state), &["run", "x", "true"])), "", "only one has the lock");
    assert_eq!(message(&in_home(home, None, &["run", "x", "true"])), "");
    for (arguments, found) in [
        (&["run", "x", "true"][..], "\"x\" was also locked in"),
        (&["run", "--no-fork", "x", "true"], "\"x\" was also locked in"),
        (&["status", "x"], "\"x\" was also locked in"),
        (&["list"], "locks are also in"),
    ] {
        let done = in_home(home, Some(&state), arguments);
        let expected = format!(
            "onelock: warning: {found} {}, the default directory without XDG_STATE_HOME, but this is {}: jobs in \
             different directories do not exclude each other; give all jobs the same XDG_STATE_HOME or --url, and \
             remove the directory that is no longer used\n",
            without.display(),
            with.display()
        );
        assert!(message(&done).starts_with(&expected), "{arguments:?}: {}", message(&done));
    }
    assert_eq!(message(&in_home(home, Some(&state), &["run", "y", "true"])), "", "another lock");
    assert_eq!(message(&in_home(home, Some(&home.join(".local/state")), &["run", "x", "true"])), "", "the same path");
    let linked = home.join("linked");
    symlink(home.join(".local/state"), &linked).unwrap();
    assert_eq!(message(&in_home(home, Some(&linked), &["run", "x", "true"])), "", "the same directory");
}

#[test]
fn a_verbose_run_names_the_default_store() {
    let locks = Locks::new();
    let home = locks.dir.path();
    let done = in_home(home, None, &["run", "-n", "-v", "x", "true"]);
    let expected = format!(
        "onelock: \"x\" was acquired in the default store file://{}/.local/state/onelock/locks\n",
        home.display()
    );
    assert_eq!(message(&done), expected);
    assert_eq!(message(&output(&mut locks.run(["-n", "-v", "x", "true"]))), "");
}
