//! Every code of the table of exit codes.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use nix::unistd::geteuid;

use super::fixture::{Locks, Running, code, onelock, output, stdout};

#[test]
fn onelock_exits_with_the_commands_status() {
    let locks = Locks::new();
    for status in [0, 1, 7, 75, 255] {
        assert_eq!(code(&mut locks.run(["x", "--", "sh", "-c", &format!("exit {status}")])), status);
    }
}

#[test]
fn a_command_killed_by_a_signal_exits_with_128_plus_n() {
    let locks = Locks::new();
    // 34 and 64 are real-time signals.
    for signal in [1, 2, 6, 9, 15, 34, 64] {
        assert_eq!(code(&mut locks.run(["x", "-c", &format!("ulimit -c 0; kill -{signal} $$")])), 128 + signal);
    }
}

#[test]
fn a_contended_lock_exits_with_1_or_the_conflict_code() {
    let locks = Locks::new();
    let mut holder = Running::start(&mut locks.run(["x", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    for (args, expected) in [
        (["-n", "-E", "1"], 1),
        (["-n", "-E", "9"], 9),
        (["-w", "-E", "0"], 64),
        (["-w0", "-E", "0"], 0),
        (["-w0.05", "-E", "255"], 255),
        (["-w50ms", "-E", "3"], 3),
        (["--wait=0", "--conflict-exit-code", "8"], 8),
        (["--nonblock", "--conflict-exit-code", "8"], 8),
    ] {
        let output = output(locks.run(args).args(["x", "--", "echo", "ran"]));
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(output.stderr.is_empty() || expected == 64, "{output:?}");
    }
    assert_eq!(code(locks.run(["-n", "x", "true"]).env("ONELOCK_URL", "nonsense")), 1);
}

#[test]
fn a_wrong_command_line_exits_with_64_before_locking() {
    let locks = Locks::new();
    let long = "x".repeat(1025);
    for args in [
        &[][..],
        &["x"],
        &["x", "--"],
        &["", "true"],
        &[long.as_str(), "true"],
        &["--no-such-option", "x", "true"],
        &["-w", "soon", "x", "true"],
        &["-n", "-w", "1", "x", "true"],
        &["-E", "256", "x", "true"],
        &["x", "-c", "true", "true"],
    ] {
        assert_eq!(code(locks.run([]).args(args)), 64, "{args:?}");
    }
    assert_eq!(code(&mut onelock(["jump"])), 64);
    assert!(!locks.file().exists());
}

#[test]
fn no_fork_without_a_lock_descriptor_exits_with_64() {
    let output = output(&mut onelock(["run", "--url", "memory:", "--no-fork", "x", "true"]));
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--no-fork needs a store whose locks live in a descriptor")
    );
}

#[test]
fn a_directory_that_cannot_be_created_exits_with_73() {
    let output = output(&mut onelock(["run", "--url", "file:///dev/null/locks", "x", "true"]));
    assert_eq!(output.status.code(), Some(73), "{output:?}");
}

#[test]
fn a_directory_without_permission_exits_with_77() {
    let locks = Locks::new();
    let closed = locks.dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let url = format!("file://{}/locks", closed.display());
    // Root has every permission, so it becomes the user 65534 first.
    let mut command = Command::new(if geteuid().is_root() { "setpriv" } else { "env" });
    if geteuid().is_root() {
        command.args(["--reuid", "65534", "--clear-groups"]);
    }
    let output = output(command.arg(locks.program_for_all()).args(["run", "--url", &url, "x", "true"]));
    assert_eq!(output.status.code(), Some(77), "{output:?}");
}

#[test]
fn a_wrong_configuration_exits_with_78_and_one_line() {
    let locks = Locks::new();
    let with_ttl = format!("{}?ttl=10s", locks.url());
    for args in [&["--url", "nosuch://x", "x", "true"][..], &["--url", &with_ttl, "x", "true"]] {
        let output = output(onelock(["run"]).args(args));
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("onelock: ") && message.lines().count() == 1, "{message}");
    }
}

#[test]
fn a_command_that_cannot_be_executed_exits_with_126() {
    let locks = Locks::new();
    let plain = locks.dir.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    for command in [plain.to_str().unwrap(), "/", "/etc/passwd/x"] {
        for mode in ["-v", "--no-fork"] {
            assert_eq!(code(&mut locks.run([mode, "x", command])), 126, "{command}");
            assert!(locks.is_free());
        }
    }
}

#[test]
fn a_missing_command_exits_with_127() {
    let locks = Locks::new();
    for mode in ["-v", "--no-fork"] {
        assert_eq!(code(&mut locks.run([mode, "x", "no-such-command"])), 127);
        assert_eq!(code(&mut locks.run([mode, "x", "/no/such/command"])), 127);
        assert!(locks.is_free());
    }
}

#[test]
fn the_help_shows_the_table_of_the_readme() {
    let help = stdout(&mut onelock(["run", "--help"]));
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let help = words(&help);
    let rows: Vec<_> = include_str!("../../../README.md")
        .lines()
        .skip_while(|line| *line != "| code | meaning |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 14, "{rows:?}");
    for row in rows {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let line = format!("{} {}", cells.next().unwrap(), cells.next().unwrap());
        assert!(help.contains(&words(&line)), "{line:?} is missing in {help}");
    }
}

#[cfg(not(feature = "torture"))]
#[test]
fn a_build_without_torture_names_the_feature() {
    for arguments in [&["torture"][..], &["torture", "--json", "--url", "memory:", "--time", "1s"]] {
        let output = output(super::fixture::onelock([]).args(arguments));
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("--features torture") && message.lines().count() == 1, "{message}");
    }
}
