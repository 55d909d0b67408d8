//! The default store: a private directory of the user.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

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
    let run = |home: Option<&std::path::Path>| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid.to_string(), "--clear-groups"]).arg(&program).args(["run", "x", "true"]);
        command.env_remove("HOME").env_remove("XDG_STATE_HOME").env_remove("ONELOCK_URL");
        output(command.envs(home.map(|home| ("HOME", home))))
    };
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
    std::os::unix::fs::symlink(locks.dir.path(), &private).unwrap();
    let refused = run(None);
    fs::remove_file(&private).unwrap();
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
}
