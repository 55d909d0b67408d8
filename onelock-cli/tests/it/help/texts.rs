//! What the help and the version say, and their colours.

use std::{fs, path::Path, process::Command};

use super::{commands, help, run, said};
use crate::run::fixture::{onelock, stdout, without_preferences};

#[test]
fn the_version_names_features_and_commit() {
    assert_eq!(stdout(&mut onelock(["-V"])), format!("onelock {}\n", env!("CARGO_PKG_VERSION")));
    let long = stdout(&mut onelock(["--version"]));
    let lines: Vec<_> = long.lines().collect();
    assert_eq!(lines[0], format!("onelock {}", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()), "{long}");
    let on = lines[2].strip_prefix("features: ").unwrap().split(", ").any(|feature| feature == "dynamo");
    assert_eq!(on, cfg!(feature = "dynamo"), "{long}");
    let off = lines[3].strip_prefix("left out: ").unwrap().split(", ").any(|feature| feature == "dynamo");
    assert_eq!(off, cfg!(not(feature = "dynamo")), "{long}");
}

#[test]
fn every_help_links_to_an_existing_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let base = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");
    for command in commands().iter().map(String::as_str).chain([""]) {
        let text = help(command);
        let target = text.lines().last().and_then(|line| line.trim_start().strip_prefix(base));
        let target = target.unwrap_or_else(|| panic!("{command}: {text}"));
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let page = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{command}: {file}: {error}"));
        let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
        let mut anchors = headings.map(|line| {
            let plain: String = line.trim_start_matches(['#', ' ']).to_lowercase().replace('`', "");
            plain.replace(' ', "-")
        });
        assert!(anchor.is_empty() || anchors.any(|found| found == anchor), "{command}: {file} has no #{anchor}");
    }
}

/// Runs the help on a terminal of its own, and returns what the terminal got.
fn on_a_terminal(environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("script");
    command.args(["-qec", concat!(env!("CARGO_BIN_EXE_onelock"), " status --help"), "/dev/null"]);
    without_preferences(command.env("TERM", "xterm")).envs(environment.iter().copied());
    said(&run(&mut command, "bsdutils"))
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    assert!(on_a_terminal(&[]).contains("\x1b["));
    assert!(!on_a_terminal(&[("NO_COLOR", "1")]).contains("\x1b["));
    assert!(!help("status").contains("\x1b["));
}
