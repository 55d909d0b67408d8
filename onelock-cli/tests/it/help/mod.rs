//! The help, the man pages and the completions: each compared with the others, and used by the
//! programs that they are for.

mod build_commit;
mod completions;
#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres", feature = "object", feature = "torture"))]
mod golden;
mod man;
mod texts;

use std::{
    collections::BTreeSet,
    process::{Command, Output},
};

use crate::run::fixture::{onelock, stdout};

/// Returns what `--help` prints for a command, for `onelock` itself if the name is empty.
fn help(command: &str) -> String {
    let words = command.split_whitespace();
    stdout(onelock([]).args(words).arg("--help").env("COLUMNS", "80"))
}

/// Returns the commands that the help lists, without `help` itself.
fn commands() -> Vec<String> {
    let help = help("");
    let (_, list) = help.split_once("Commands:\n").expect("the help has a list of commands");
    let rows = list.lines().take_while(|line| !line.is_empty());
    let names = rows.filter(|row| row.starts_with("  ") && !row.starts_with("   "));
    let names = names.filter_map(|row| row.split_whitespace().next());
    names.filter(|name| *name != "help").map(ToOwned::to_owned).collect()
}

/// Returns the long options at the start of lines, which is where the help explains them.
fn explained_options(text: &str) -> BTreeSet<String> {
    let heads = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    heads.flat_map(long_options).collect()
}

/// Returns the words of a text that are long options.
fn long_options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let options = words.filter(|word| word.starts_with("--") && word.len() > 2);
    options.map(ToOwned::to_owned).collect()
}

/// Runs a program that the package of this name has.
fn run(command: &mut Command, package: &str) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}; this test needs it: apt-get install {package}"))
}

/// Returns both streams of a run.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}
