//! The examples of the manual of `flock(1)`, beside the lines of onelock in docs/moving.md: each is
//! run while the other one holds the same file.

use std::{fs, path::Path, process::Command};

use nix::sys::signal::{SIGKILL, killpg};

use super::{
    fixture::{Locks, Running, onelock, output},
    paths::path_with_onelock,
};

/// The lines of docs/moving.md.
const HOLD: [&str; 3] = [
    "coproc LOCK { exec onelock hold -x -w 10 /var/lock/.myscript.exclusivelock; }",
    "read -r -u \"${LOCK[0]}\" held || exit 1",
    "exec {LOCK[1]}>&-",
];
const FLOCK_SELF: &str = r#"[ "${FLOCKER}" != "$0" ] && exec env FLOCKER="$0" flock -en "$0" "$0" "$@" || :"#;
const ONELOCK_SELF: &str =
    r#"[ "$ONELOCK_NAME" = "$(realpath "$0")" ] || exec onelock run -en "$(realpath "$0")" "$0" "$@""#;

/// Asserts that the page shows the lines, as they are or in a table.
#[track_caller]
fn assert_shown(lines: &[&str]) {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/moving.md")).unwrap();
    for line in lines {
        let in_table = line.replace('|', "\\|");
        assert!(page.contains(line) || page.contains(&in_table), "docs/moving.md lacks {line}");
    }
}

fn bash(locks: &Locks, line: &str) -> Command {
    let mut bash = Command::new("setsid");
    bash.args(["bash", "-c", line]).current_dir(locks.dir.path()).env("PATH", path_with_onelock());
    for variable in ["ONELOCK_URL", "ONELOCK_URL_FILE", "ONELOCK_NAME", "ONELOCK_HELD", "FLOCKER"] {
        bash.env_remove(variable);
    }
    bash
}

/// Runs a line in the directory of the test, whose `data` stands for /tmp, and returns what it
/// prints.
fn shell(locks: &Locks, line: &str) -> String {
    let ran = output(&mut bash(locks, line));
    assert_eq!(ran.stderr, b"", "{line}");
    String::from_utf8(ran.stdout).unwrap()
}

/// Holds a lock with a line whose command is `cat` or the like, until it is dropped.
fn hold(locks: &Locks, line: &str) -> Holder {
    let mut holder = Running::start(&mut bash(locks, &line.replace("-c cat", "-c 'echo held; sleep 1000'")));
    holder.expect_line("held");
    Holder(holder)
}

/// A line that holds a lock, with its descendants.
struct Holder(Running);

impl Drop for Holder {
    fn drop(&mut self) {
        // The command of flock has inherited its lock.
        killpg(self.0.pid(), SIGKILL).unwrap();
    }
}

fn in_test(line: &str) -> String {
    line.replace("/tmp", "./data")
}

/// Two lines of the same meaning exclude each other, or share, in each combination.
fn check_pairs(holders: [&str; 2], tries: [&str; 2], printed: &str) {
    assert_shown(&[holders, tries].concat());
    let locks = Locks::new();
    fs::create_dir(locks.dir.path().join("data")).unwrap();
    for holder in holders {
        let _held = hold(&locks, &in_test(holder));
        for line in tries {
            assert_eq!(shell(&locks, &in_test(line)), printed, "{holder} and {line}");
        }
    }
}

#[test]
fn an_exclusive_lock_on_a_directory_is_refused() {
    check_pairs(
        ["flock /tmp -c cat", "onelock run /tmp -c cat"],
        ["flock -w .007 /tmp -c echo; /bin/echo $?", "onelock run -w .007 /tmp -c echo; /bin/echo $?"],
        "1\n",
    );
}

#[test]
fn a_shared_lock_on_a_directory_is_shared() {
    check_pairs(
        ["flock -s /tmp -c cat", "onelock run -s /tmp -c cat"],
        ["flock -s -w .007 /tmp -c echo; /bin/echo $?", "onelock run -s -w .007 /tmp -c echo; /bin/echo $?"],
        "\n0\n",
    );
}

#[test]
fn a_local_lock_file_is_locked_before_the_command_runs() {
    let lines = ["flock -x local-lock-file echo 'a b c'", "onelock run -x ./local-lock-file echo 'a b c'"];
    assert_shown(&lines);
    let locks = Locks::new();
    for line in lines {
        assert_eq!(shell(&locks, line), "a b c\n");
        let _held = hold(&locks, &line.replace("echo 'a b c'", "-c cat"));
        for refused in lines {
            let refused = refused.replace("-x", "-nx");
            assert_eq!(shell(&locks, &format!("{refused}; echo $?")), "1\n");
        }
    }
}

#[test]
fn a_script_holds_the_file_over_several_commands() {
    assert_shown(&HOLD);
    assert_shown(&["coproc LOCK { exec onelock hold -n /var/lock/mylockfile; }"]);
    let locks = Locks::new();
    let file = locks.dir.path().join(".myscript.exclusivelock");
    let file = file.to_str().unwrap();
    let [hold, read, release] = HOLD.map(|line| line.replace("/var/lock/.myscript.exclusivelock", file));
    // The subshell of flock, and the lines of onelock.
    let theirs = |body: &str| format!("( flock -x -n 200 || exit 1; {body} ) 200>{file}");
    let ours = |body: &str| format!("{}\n{read}\n{body}\n{release}\nwait", hold.replace("-w 10", "-n"));
    for outer in [theirs("INNER"), ours("INNER")] {
        for inner in [theirs("echo entered;"), ours("echo entered")] {
            let inner = format!("bash -c {}; echo refused $?", quoted(&inner));
            assert_eq!(shell(&locks, &outer.replace("INNER", &format!("{inner};"))), "refused 1\n", "{outer}");
        }
    }
    for alone in [theirs("echo entered;"), ours("echo entered")] {
        assert_eq!(shell(&locks, &alone), "entered\n");
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[test]
fn a_script_locks_itself_in_both_ways() {
    assert_shown(&[FLOCK_SELF, ONELOCK_SELF]);
    let locks = Locks::new();
    for (number, (outer, inner)) in
        [(FLOCK_SELF, FLOCK_SELF), (FLOCK_SELF, ONELOCK_SELF), (ONELOCK_SELF, FLOCK_SELF)].into_iter().enumerate()
    {
        // The inner text has the same script as its lock file.
        let inner = quoted(&format!("{inner}\necho entered"));
        let text = format!(
            "#!/bin/bash\n{outer}\necho \"ran $1\"\n\
             env -u FLOCKER -u ONELOCK_NAME -u ONELOCK_HELD bash -c {inner} \"$0\" again\necho \"inner $?\"\n"
        );
        let script = locks.dir.path().join(format!("self-{number}"));
        write_script(&script, &text);
        assert_eq!(shell(&locks, &format!("./self-{number} first")), "ran first\ninner 1\n", "{outer} {inner}");
    }
}

/// A script that runs under the lock of another one takes its own lock too.
#[test]
fn a_nested_script_takes_its_own_lock() {
    let locks = Locks::new();
    let file = |name: &str| locks.dir.path().join(name);
    let inner = "flock -n inner true; echo \"inner is free: $?\"; flock -n outer true; echo \"outer is free: $?\"";
    write_script(&file("inner"), &format!("#!/bin/bash\n{ONELOCK_SELF}\necho \"ran $ONELOCK_NAME\"\n{inner}\n"));
    write_script(&file("outer"), &format!("#!/bin/bash\n{ONELOCK_SELF}\n./inner\n"));
    let expected = format!("ran {}\ninner is free: 1\nouter is free: 1\n", file("inner").display());
    assert_eq!(shell(&locks, "./outer"), expected);
    // Again below itself, and below a directory of another name.
    fs::create_dir(file("link")).unwrap();
    write_script(&file("link/inner"), &format!("#!/bin/bash\n{ONELOCK_SELF}\necho \"ran $ONELOCK_NAME\"\n"));
    write_script(&file("both"), &format!("#!/bin/bash\n{ONELOCK_SELF}\ncd link && ./inner\n"));
    assert_eq!(shell(&locks, "./both"), format!("ran {}\n", file("link/inner").display()));
}

fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn lines_with_a_descriptor_are_refused_with_a_tip() {
    let tip = "tip: for a lock that a script holds over several commands, as with `flock 9` and `flock -u 9`, use \
               `onelock hold`";
    for line in [&["9"][..], &["-n", "9"], &["-u", "9"], &["--unlock", "9"]] {
        let refused = output(onelock(["run"]).args(line));
        let shown = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{line:?}: {shown}");
        assert!(shown.contains(tip) && !shown.contains("as a value"), "{line:?}: {shown}");
    }
    for line in [&[][..], &["-y", "x", "true"], &["-n", "-w", "1", "x", "true"]] {
        let refused = output(onelock(["run"]).args(line));
        assert!(!String::from_utf8_lossy(&refused.stderr).contains("onelock hold"), "{line:?}");
    }
}

#[test]
fn a_negative_value_is_refused_as_the_value_of_its_option() {
    for (option, value) in [("--permits", "<NUMBER>"), ("-w", "<DURATION>"), ("-E", "<CODE>")] {
        for given in ["-1", "-5s"] {
            let refused = output(&mut onelock(["run", option, given, "x", "true"]));
            let shown = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(64), "{option}: {shown}");
            let names_both = shown.contains(&format!("invalid value '{given}' for '")) && shown.contains(value);
            assert!(names_both && !shown.contains("tip:"), "{option}: {shown}");
        }
    }
}
