//! Shows a long result on a terminal through a pager, as git does.

use std::{
    env,
    io::{self, Write as _},
    process::{Command, ExitStatus, Stdio},
};

use crate::{exit::Failure, output::print_as_is, sys, terminal::output_height};

/// The exit codes of a shell whose command does not exist or cannot be executed.
const NOT_RUN: [i32; 2] = [126, 127];

/// Prints lines of harmless text: through the pager if `use_pager` is set and the terminal has
/// fewer rows, else directly.
pub(crate) fn print_lines(lines: &[String], use_pager: bool) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    let text = lines.join("\n");
    // The prompt of the shell takes a row.
    let is_long = output_height().is_some_and(|rows| lines.len() >= rows);
    match pager().filter(|_| use_pager && is_long) {
        Some(pager) if run(&pager, &text).is_ok_and(was_shown) => Ok(()),
        _ => print_as_is(&text),
    }
}

/// Returns the command line of the pager; `None` if the user wants none.
fn pager() -> Option<String> {
    match env::var("PAGER") {
        Ok(pager) if pager.is_empty() || pager == "cat" => None,
        Ok(pager) => Some(pager),
        Err(_) => Some("less".into()),
    }
}

fn was_shown(ended: ExitStatus) -> bool {
    ended.code().is_none_or(|code| !NOT_RUN.contains(&code))
}

fn run(pager: &str, text: &str) -> io::Result<ExitStatus> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", pager]).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        // Ends if everything fits, shows colours, and leaves the text on the screen.
        command.env("LESS", "FRX");
    }
    let mut pager = command.spawn()?;
    // The keys of the terminal are for the pager. It was started before, and does not inherit this.
    let signals = [libc::SIGINT, libc::SIGQUIT];
    signals.iter().for_each(|signal| sys::set_ignored(*signal, true));
    if let Some(mut input) = pager.stdin.take() {
        // The pager may end before it has read everything.
        let _ = input.write_all(text.as_bytes()).and_then(|()| input.write_all(b"\n"));
    }
    let ended = pager.wait();
    signals.iter().for_each(|signal| sys::set_ignored(*signal, false));
    ended
}
