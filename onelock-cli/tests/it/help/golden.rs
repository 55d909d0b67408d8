//! The help at 80 columns, compared with the files in `golden`.
//!
//! `ONELOCK_GOLDEN=write` writes these files anew; read the difference before it is committed.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{commands, help};
use crate::run::fixture::{onelock, stdout};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/help/golden")
}

/// Returns the short and the long help of a command.
fn both(command: &str) -> String {
    let short = stdout(onelock([]).args(command.split_whitespace()).arg("-h").env("COLUMNS", "80"));
    let typed = ["onelock", command].join(" ");
    let typed = typed.trim_end();
    format!("$ {typed} -h\n{short}\n$ {typed} --help\n{}", help(command))
}

#[test]
fn help_is_as_committed() {
    let is_update = std::env::var("ONELOCK_GOLDEN").is_ok_and(|value| value == "write");
    let mut files = BTreeSet::new();
    let mut changed = Vec::new();
    for command in commands().iter().map(String::as_str).chain([""]) {
        let file = format!("{}.txt", ["onelock", command].join("-").trim_end_matches('-'));
        let path = directory().join(&file);
        let now = both(command);
        if is_update {
            fs::write(&path, &now).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&now) {
            changed.push(format!("{file} differs from:\n{now}"));
        }
        files.insert(file);
    }
    assert!(changed.is_empty(), "{}\nONELOCK_GOLDEN=write writes the files anew", changed.join("\n"));
    let committed = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(committed.collect::<BTreeSet<_>>(), files, "files of commands that are no more");
}

#[test]
fn help_fits_eighty_columns() {
    // An example is one line, so that it can be copied.
    let is_example = |line: &str| line.starts_with("    onelock ") || line.starts_with("    coproc ");
    for command in commands().iter().map(String::as_str).chain([""]) {
        let text = both(command);
        let wide =
            text.lines().find(|line| line.chars().count() > 80 && !is_example(line) && !line.contains("https://"));
        assert_eq!(wide, None, "{command}");
    }
}
