//! The completions, used by their shells.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use super::{commands, explained_options, help, long_options, run, said};
use crate::run::fixture::{onelock, stdout};

/// Types into an interactive shell on a terminal of its own, and waits for an answer.
const TYPIST: &str = r#"
import os, pty, select, sys, time
prompt, keys, wanted, *shell = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", COLUMNS="200")
    os.execvp(shell[0], shell)
screen, end = "", time.monotonic() + 30
def expect(text):
    global screen
    while text not in screen:
        if time.monotonic() > end:
            sys.exit(f"no {text!r} in {screen!r}")
        if select.select([terminal], [], [], 1)[0]:
            screen += os.read(terminal, 4096).decode(errors="replace")
    screen = screen.split(text, 1)[1]
expect(prompt)
os.write(terminal, keys.encode())
expect(wanted)
"#;

fn completions(shell: &str) -> String {
    stdout(&mut onelock(["completions", shell]))
}

/// Types `keys` behind the prompt `READY> `, and waits until `wanted` appears on the screen.
fn type_and_expect(shell: &[&str], keys: &str, wanted: &str) {
    let mut python = Command::new("python3");
    python.args(["-c", TYPIST, "READY> ", keys, wanted]).args(shell);
    let program = Path::new(env!("CARGO_BIN_EXE_onelock")).parent().unwrap();
    python.env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()));
    let output = run(&mut python, "python3");
    assert!(output.status.success(), "{keys:?}: {}", said(&output));
}

#[test]
fn completions_know_what_the_help_explains() {
    for shell in ["bash", "fish", "powershell", "zsh"] {
        let script = completions(shell);
        let offered: BTreeSet<_> = long_options(&script.replace(" -l ", " --")).into_iter().collect();
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
            for option in explained_options(&help(&command)) {
                assert!(offered.contains(&option), "{shell}: {command} {option}");
            }
        }
        for hidden in ["doctor-second-process", "torture-worker"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let directory = tempfile::tempdir().unwrap();
    let rc = directory.path().join("rc");
    fs::write(&rc, format!("{}\nPS1='READY> '\n", completions("bash"))).unwrap();
    let shell = ["bash", "--noprofile", "--rcfile", rc.to_str().unwrap(), "-i"];
    type_and_expect(&shell, "onelock sta\t", "status ");
    type_and_expect(&shell, "onelock run --conf\t", "--conflict-exit-code");
    type_and_expect(&shell, "onelock hold --on-loss k\t", "kill");
    type_and_expect(&shell, "onelock completions z\t", "zsh");
}

#[test]
fn zsh_completes_commands_options_and_values() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("_onelock"), completions("zsh")).unwrap();
    let rc =
        format!("PS1='READY> '\nfpath=({} $fpath)\nautoload -U compinit\ncompinit -u -D\n", directory.path().display());
    fs::write(directory.path().join(".zshrc"), rc).unwrap();
    let home = format!("ZDOTDIR={}", directory.path().display());
    let shell = ["env", &home, "zsh", "-d", "-i"];
    type_and_expect(&shell, "onelock sta\t", "onelock status");
    type_and_expect(&shell, "onelock run --conf\t", "--conflict-exit-code");
    type_and_expect(&shell, "onelock hold --on-loss ki\t", "kill");
}

#[test]
fn fish_completes_commands_options_and_values() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("onelock.fish");
    fs::write(&script, completions("fish")).unwrap();
    let complete = |typed: &str| {
        let line = format!("source {}; complete -C '{typed}'", script.display());
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", &line]).env("HOME", directory.path());
        let output = run(&mut fish, "fish");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let words = String::from_utf8(output.stdout).unwrap();
        words.lines().filter_map(|line| line.split('\t').next()).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("onelock stat"), ["status"]);
    assert_eq!(complete("onelock run --conf"), ["--conflict-exit-code"]);
    assert_eq!(complete("onelock hold --on-loss k"), ["kill"]);
}
