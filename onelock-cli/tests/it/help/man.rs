//! The man pages: without warnings of the formatters, and with everything that the help explains.

use std::{fs, path::Path, process::Command};

use super::{commands, explained_options, help, long_options, run, said};
use crate::run::fixture::{code, onelock, stdout};

fn pages() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    stdout(onelock(["man"]).arg(directory.path().join("man1")));
    directory
}

/// Returns a page as a reader sees it, without overstrikes.
fn rendered(page: &Path) -> String {
    let output = run(Command::new("mandoc").args(["-Tascii", "-Owidth=200"]).arg(page), "mandoc");
    assert!(output.status.success(), "{output:?}");
    let mut text: Vec<char> = Vec::new();
    let printed = String::from_utf8(output.stdout).unwrap();
    for c in printed.chars() {
        if c == '\u{8}' {
            text.pop();
        } else {
            text.push(c);
        }
    }
    text.into_iter().collect()
}

#[test]
fn mandoc_has_no_warnings() {
    let directory = pages();
    let written: Vec<_> = fs::read_dir(directory.path().join("man1")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(written.len(), commands().len() + 1, "{written:?}");
    let lint = run(Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(&written), "mandoc");
    assert!(lint.status.success(), "{}", said(&lint));
    let bad = directory.path().join("bad.1");
    fs::write(&bad, ".TH X 1\n.NOSUCH\n").unwrap();
    assert!(!run(Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(bad), "mandoc").status.success());
}

#[test]
fn man_renders_every_page_without_warnings() {
    let directory = pages();
    for entry in fs::read_dir(directory.path().join("man1")).unwrap() {
        let path = entry.unwrap().path();
        let mut man = Command::new("man");
        man.args(["--warnings", "-l", "-Tutf8"]).arg(&path).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
        let output = run(&mut man, "man-db");
        assert!(output.status.success() && output.stderr.is_empty(), "{}: {output:?}", path.display());
    }
}

#[test]
fn man_pages_explain_what_the_help_explains() {
    let directory = pages();
    for command in commands().iter().map(String::as_str).chain([""]) {
        let file = ["onelock", command].join("-");
        let page = rendered(&directory.path().join(format!("man1/{}.1", file.trim_end_matches('-'))));
        let help = help(command);
        assert_eq!(explained_options(&page), explained_options(&help), "{command}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows = help.lines().skip_while(|line| *line != "Exit codes:").skip(1).take_while(|line| !line.is_empty());
        for row in rows.filter(|row| !row.starts_with("   ")) {
            let meaning = words(row).split_once(' ').unwrap().1.to_owned();
            assert!(words(&page).contains(&meaning), "{command}: {meaning} is missing in\n{page}");
        }
        let examples = help.lines().filter(|line| line.starts_with("    onelock "));
        for example in examples {
            assert!(words(&page).contains(&words(example)), "{command}: {example} is missing in\n{page}");
        }
        for option in explained_options(&help) {
            assert!(long_options(&page).contains(&option));
        }
    }
}

#[test]
fn man_is_reproducible_for_packagers() {
    let of = |seconds: &str| stdout(onelock(["man"]).env("SOURCE_DATE_EPOCH", seconds));
    let page = of("1767225600");
    assert!(page.contains("2026-01-01"), "{}", page.lines().take(5).collect::<Vec<_>>().join("\n"));
    assert_eq!(page, of("1767225600"));
}

#[test]
fn man_reports_a_directory_it_cannot_write() {
    assert_eq!(code(&mut onelock(["man", "/dev/null/man1"])), 73);
}
