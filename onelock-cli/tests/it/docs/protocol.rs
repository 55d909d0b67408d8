//! Runs the protocol lines of a page as they are written: the blocks in the language `protocol`.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::page;
use crate::compare;

/// `> ` begins a line that is sent, and `< ` a line that has to come next. One session of
/// `onelock hold --json` serves all blocks of the page.
#[test]
fn protocol_lines_run_as_shown() {
    let path = "docs/any-language.md";
    let page = page(path);
    let blocks: Vec<_> = page.blocks.iter().filter(|block| block.language == "protocol").collect();
    assert!(!blocks.is_empty(), "{path} shows no protocol lines");
    let directory = tempfile::tempdir().unwrap();
    let mut hold = Command::new(env!("CARGO_BIN_EXE_onelock"))
        .args(["hold", "--json", "--url"])
        .arg(format!("file://{}/locks", directory.path().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (hold.stdin.take().unwrap(), BufReader::new(hold.stdout.take().unwrap()));
    for block in blocks {
        for (offset, line) in block.text.lines().enumerate() {
            if let Some(request) = line.strip_prefix("> ") {
                writeln!(input, "{request}").unwrap();
                continue;
            }
            let shown = line.strip_prefix("< ").expect("a protocol line begins with > or <");
            let mut printed = String::new();
            output.read_line(&mut printed).unwrap();
            let number = block.line + offset;
            assert!(compare::matches(shown, &printed), "{path}:{number}:\n-- shown:\n{shown}\n-- printed:\n{printed}");
        }
    }
    drop(input);
    assert!(hold.wait().unwrap().success());
}
