//! What people read about the command line. Help, man pages and completions come from one
//! description: clap's arguments, and the examples and exit codes of [`pages`].

mod flock_tips;
mod man;
mod pages;
mod version;

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory, FromArgMatches, Parser, ValueHint};

pub(crate) use self::man::man;
use self::pages::PAGES;
use crate::{
    args::{Cli, CompletionsArgs, OnlyRun},
    exit::{Exit, Failure},
};

/// Longer lines are hard to read, also on a wide terminal.
const WIDEST: usize = 100;

/// Returns the whole command line.
pub(crate) fn command() -> Command {
    let command = Cli::command().version(version::VERSION).long_version(version::LONG.as_str()).max_term_width(WIDEST);
    let page = |name: &str| PAGES.iter().find(|page| page.command == name);
    let described = |command: Command, name: &str| match page(name) {
        Some(page) => page.attach_to(command),
        None => command,
    };
    described(command, "").mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_owned();
        let subcommand = described(subcommand, &name);
        // zsh and fish then complete the command under the lock with its own completions.
        let hint = |argv: Arg| argv.value_hint(ValueHint::CommandWithArguments);
        if name == "run" { subcommand.mut_arg("argv", hint) } else { subcommand }
    })
}

/// Parses the command line.
pub(crate) fn parse(arguments: Vec<std::ffi::OsString>) -> Result<Cli, clap::Error> {
    // Most command lines are right and need no texts, which take longer to put together than the
    // rest of a start. Mistakes and questions for help are read again, and answered with the texts.
    let is_run = arguments.get(1).is_some_and(|word| word == "run");
    let read =
        if is_run { OnlyRun::try_parse_from(&arguments).map(Cli::from) } else { Cli::try_parse_from(&arguments) };
    let read = read.or_else(|_| Cli::from_arg_matches(&command().try_get_matches_from(arguments)?));
    if is_run { read.map_err(flock_tips::with_tip) } else { read }
}

/// Runs `onelock completions`: prints the completions for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut without_hidden(&command()), "onelock", &mut script);
    write_all(&script)
}

/// Prints text that was made here. A reader that closes the pipe early is no failure.
fn write_all(text: &[u8]) -> Result<Exit, Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::os("writing the output", error)),
        _ => Ok(Exit::Code(0)),
    }
}

/// Returns the command line without the commands that `onelock` calls itself.
fn without_hidden(command: &Command) -> Command {
    let listed = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new("onelock").args(command.get_arguments()).subcommands(listed)
}
