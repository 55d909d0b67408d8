//! Man pages, in the sections that manual(7) of Linux names.

use std::{
    env, fs,
    path::Path,
    time::{Duration, SystemTime},
};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};

use super::{PAGES, command, pages::Page, version::VERSION, write_all};
use crate::{
    args::ManArgs,
    exit::{self, Exit, Failure},
};

/// Runs `onelock man`: prints onelock(1), or writes all pages into a directory.
pub(crate) fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    let Some(directory) = &args.directory else {
        return write_all(&page_of(&root));
    };
    fs::create_dir_all(directory).map_err(|error| not_written(directory, error))?;
    for command in std::iter::once(&root).chain(listed(&root)) {
        let path = directory.join(format!("{}.1", title_of(command)));
        fs::write(&path, page_of(command)).map_err(|error| not_written(&path, error))?;
    }
    Ok(Exit::Code(0))
}

fn not_written(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(exit::CANNOT_CREATE, format!("cannot write {}", path.display())).with_source(error)
}

/// Returns the subcommands that have a page.
fn listed(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Returns `onelock`, or `onelock-run`.
fn title_of(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page_of(command: &Command) -> Vec<u8> {
    let title = title_of(command);
    let man = Man::new(command.clone())
        .title(title.to_uppercase())
        .date(date())
        .source(format!("onelock {VERSION}"))
        .manual("onelock manual");
    let page = PAGES.iter().find(|page| title.strip_prefix("onelock-").unwrap_or_default() == page.command);
    let mut text = Vec::new();
    let written = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| synopsis(command).to_writer(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text))
        .and_then(|()| if command.has_subcommands() { commands(command).to_writer(&mut text) } else { Ok(()) })
        .and_then(|()| page.map_or(Ok(()), |page| sections(command, page).to_writer(&mut text)));
    written.expect("memory can be written");
    tidied(&String::from_utf8(text).expect("the help is UTF-8")).into_bytes()
}

/// Removes what `mandoc -Tlint` warns of: a line break beside an empty line. Also removes the
/// definition of the apostrophe before every section but the first.
fn tidied(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let is_empty = |at: Option<usize>| at.and_then(|at| lines.get(at)).is_some_and(|line| line.is_empty());
    let is_kept = |at: usize| match lines[at] {
        ".br" => !is_empty(at.checked_sub(1)) && !is_empty(at.checked_add(1)),
        line => !line.contains(".ds Aq") || !lines[..at].contains(&line),
    };
    (0..lines.len()).filter(|at| is_kept(*at)).map(|at| format!("{}\n", lines[at])).collect()
}

/// Returns the day of the page: of the sources if a packager names it, else today.
fn date() -> String {
    let sources = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let time = sources.map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    humantime::format_rfc3339_seconds(time).to_string().chars().take("2026-01-31".len()).collect()
}

/// Returns the usage lines of the help, each in its own line.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (number, line) in usage.trim_start_matches("Usage: ").lines().enumerate() {
        if number > 0 {
            roff.control("br", []);
        }
        roff.text([roman(line.trim())]);
    }
    roff
}

/// Returns a table of the commands, with their pages.
fn commands(root: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in listed(root) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let title = title_of(command);
        entry(&mut roff, vec![bold(title), roman("(1)")], &about);
    }
    roff
}

/// Returns the sections that clap knows nothing of.
fn sections(command: &Command, page: &Page) -> Roff {
    let mut roff = Roff::new();
    if page.codes.rows().next().is_some() {
        roff.control("SH", ["EXIT STATUS"]);
        for row in page.codes.rows() {
            entry(&mut roff, vec![bold(row.code)], row.meaning);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    for example in page.examples {
        roff.control("TP", []);
        roff.text([roman(example.does)]);
        as_is(&mut roff, example.lines);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = if command.has_subcommands() { "flock(1)" } else { "onelock(1), flock(1)" };
    roff.text([roman(others)]);
    roff.control("PP", []);
    as_is(&mut roff, &page.address());
    roff
}

/// Adds lines that are neither filled nor adjusted.
fn as_is(roff: &mut Roff, lines: &str) {
    roff.control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn entry(roff: &mut Roff, head: Vec<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text(head);
    roff.text([roman(text)]);
}
