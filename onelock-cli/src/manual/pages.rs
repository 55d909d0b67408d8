//! The parts of the help and the man pages that are no arguments: examples, exit codes, the address
//! of the documentation.

use clap::Command;

use super::WIDEST;
use crate::exit::{Row, TABLE};

/// One command's parts.
#[derive(Debug)]
pub(super) struct Page {
    /// The name of the subcommand; empty for `onelock` itself.
    pub(super) command: &'static str,
    pub(super) examples: &'static [Example],
    pub(super) codes: Codes,
    /// The page of the documentation, from the root of the project.
    docs: &'static str,
}

/// Command lines, with what they do.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) does: &'static str,
    pub(super) lines: &'static str,
}

/// The exit codes of a command: its own first, then those that have the same meaning everywhere.
#[derive(Debug)]
pub(super) struct Codes {
    own: &'static [Row],
    shared: &'static [&'static str],
}

impl Codes {
    /// Returns the rows of the table.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let shared = self.shared.iter().map(|code| TABLE.iter().find(|row| row.code == *code));
        self.own.iter().chain(shared.map(|row| row.expect("the table has every shared code")))
    }
}

/// Any use of a store may end with one of these.
const OF_STORES: &[&str] = &["64", "65", "69", "70", "71", "73", "77", "78"];
const OF_RUN: &[&str] = &["0-255", "128+N", "1", "64", "65", "69", "70", "71", "73", "75", "77", "78", "126", "127"];
const OF_HOLD: &[&str] = &["1", "64", "65", "69", "70", "71", "73", "75", "77", "78"];
const OF_TEXTS: &[&str] = &["64", "70"];

const fn example(does: &'static str, lines: &'static str) -> Example {
    Example { does, lines }
}

const fn row(code: &'static str, meaning: &'static str) -> Row {
    Row { code, meaning }
}

/// All commands that the help lists.
pub(super) const PAGES: &[Page] = &[
    Page {
        command: "",
        examples: &[
            example("Run a job, and wait while another process runs it:", "onelock run nightly-etl -- ./job.sh"),
            example("Skip the job instead:", "onelock run -n nightly-etl -- ./job.sh"),
            example("Show who holds the lock:", "onelock status nightly-etl"),
            example("Check whether a store is fit for locks:", "onelock doctor --url redis://localhost:6379"),
        ],
        codes: Codes { own: &[], shared: &[] },
        docs: "docs/README.md",
    },
    Page {
        command: "run",
        examples: &[
            example(
                "Skip the job if another host runs it, which is no failure:",
                "onelock run -n -E 0 --url file:///mnt/efs/locks nightly-etl -- ./job.sh",
            ),
            example("Wait for up to ten minutes:", "onelock run -w 10m nightly-etl -- ./job.sh"),
            example("Run a shell command line:", "onelock run nightly-etl -c './extract | ./load'"),
            example(
                "Stop a job that hangs, and write metrics of each run:",
                "onelock run --max-hold 2h --metrics-file /var/lib/prometheus/node-exporter/etl.prom nightly-etl \
                 -- ./job.sh",
            ),
            example(
                "Let at most three run at once:",
                "onelock run --permits 3 --url redis://localhost:6379 thumbnails -- ./job.sh",
            ),
            example(
                "Wait in the order of arrival:",
                "onelock run --fair --url redis://localhost:6379 deploy -- ./deploy.sh",
            ),
        ],
        codes: Codes { own: &[], shared: OF_RUN },
        docs: "onelock-cli/README.md#onelock-run",
    },
    Page {
        command: "hold",
        examples: &[
            example(
                "Hold the lock for the rest of a bash script:",
                "coproc LOCK { exec onelock hold -w 10 nightly-etl; }\nread -r -u \"${LOCK[0]}\" held || exit 1",
            ),
            example("Serve a program through lines of JSON:", "onelock hold --json --url redis://localhost:6379"),
        ],
        codes: Codes {
            own: &[row("0", "the lock was held and released; with --json: the client ended")],
            shared: OF_HOLD,
        },
        docs: "docs/any-language.md",
    },
    Page {
        command: "status",
        examples: &[
            example("Show who holds a lock of the default store:", "onelock status nightly-etl"),
            example("Print an object for a program:", "onelock status --json --url redis://localhost:6379 nightly-etl"),
        ],
        codes: Codes { own: &[row("0", "the lock is held"), row("1", "the lock is free")], shared: OF_STORES },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "list",
        examples: &[
            example("List all held locks of a directory:", "onelock list --url file:///mnt/efs/locks"),
            example("List the names that begin with a prefix:", "onelock list --url redis://localhost:6379 etl/"),
        ],
        codes: Codes { own: &[row("0", "every entry could be read")], shared: OF_STORES },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "watch",
        examples: &[
            example("Show the held locks until Ctrl-C:", "onelock watch --url redis://localhost:6379"),
            example("Look every ten seconds, with the oldest first:", "onelock watch --interval 10s --sort age etl/"),
        ],
        codes: Codes { own: &[], shared: OF_STORES },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "wait",
        examples: &[example(
            "Wait until no process holds the lock, without taking it:",
            "onelock wait -w 10m nightly-etl",
        )],
        codes: Codes { own: &[row("0", "the lock is free"), row("1", "the lock is still held")], shared: OF_STORES },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "break",
        examples: &[
            example("Show the holder of a lock, and ask whether to break it:", "onelock break nightly-etl"),
            example(
                "Break it from a script, if it still has the holder that was seen:",
                "onelock break --if-token 1732 nightly-etl",
            ),
        ],
        codes: Codes {
            own: &[row("0", "the lock was broken"), row("1", "the lock is free or has changed, and was not broken")],
            shared: OF_STORES,
        },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "init",
        examples: &[
            example(
                "Create a DynamoDB table:",
                "onelock init --url 'dynamodb://locks?region=eu-west-1' --tag team=etl",
            ),
            example(
                "Check a PostgreSQL table, and change nothing:",
                "onelock init --check --url postgres://app@localhost/app",
            ),
        ],
        codes: Codes { own: &[row("0", "the table is ready for locks")], shared: OF_STORES },
        docs: "onelock-cli/README.md#who-holds-what",
    },
    Page {
        command: "sweep",
        examples: &[
            example("Print what would be removed:", "onelock sweep --dry-run --idle 90d /mnt/efs/locks"),
            example("Clean up, in a crontab:", "onelock sweep --idle 90d /mnt/efs/locks"),
            example("The same for a PostgreSQL table:", "onelock sweep --idle 90d postgres://app@localhost/app"),
        ],
        codes: Codes { own: &[row("0", "the store was swept")], shared: OF_STORES },
        docs: "docs/files.md#operations",
    },
    Page {
        command: "doctor",
        examples: &[
            example("Check the store of a job:", "onelock doctor --url file:///mnt/efs/locks"),
            example(
                "Check that two hosts exclude each other; run it on both:",
                "onelock doctor --peer --url file:///mnt/efs/locks",
            ),
        ],
        codes: Codes { own: &[row("0", "the store is fit"), row("1", "the store is unfit")], shared: OF_STORES },
        docs: "onelock-cli/README.md#onelock-doctor",
    },
    Page {
        command: "torture",
        examples: &[example(
            "Test a server that may be disturbed, for five minutes:",
            "onelock torture --time 5m --url redis://localhost:6379",
        )],
        codes: Codes {
            own: &[
                row("0", "every guarantee was kept"),
                row("1", "one was broken; the report shows the events"),
                row("69", "no lock was ever acquired"),
                row("71", "a process ended unexpectedly, so the run proves nothing"),
            ],
            shared: &["64", "70", "77", "78"],
        },
        docs: "onelock-cli/README.md#onelock-torture",
    },
    Page {
        command: "completions",
        examples: &[
            example(
                "Install the completions of bash for this user:",
                "onelock completions bash > ~/.local/share/bash-completion/completions/onelock",
            ),
            example("Install those of zsh, in a directory of $fpath:", "onelock completions zsh > ~/.zfunc/_onelock"),
            example("Install those of fish:", "onelock completions fish > ~/.config/fish/completions/onelock.fish"),
        ],
        codes: Codes { own: &[row("0", "the completions were printed")], shared: OF_TEXTS },
        docs: "docs/install.md",
    },
    Page {
        command: "man",
        examples: &[
            example("Read the manual without installing it:", "onelock man | man -l -"),
            example("Install all pages for this machine:", "onelock man /usr/local/share/man/man1"),
        ],
        codes: Codes { own: &[row("0", "the pages were written")], shared: &["64", "70", "73"] },
        docs: "docs/install.md",
    },
];

impl Page {
    /// Adds these parts to the help of `command`.
    pub(super) fn attach_to(&self, command: Command) -> Command {
        let mut long = self.examples_text();
        if self.codes.rows().next().is_some() {
            long += &format!("\n\n{}", self.codes_text());
        }
        // In a line of its own, so that no terminal breaks it.
        let address = format!("Documentation:\n  {}", self.address());
        command.after_long_help(format!("{long}\n\n{address}")).after_help(address)
    }

    /// Returns the address of the documentation.
    pub(super) fn address(&self) -> String {
        format!("{}/blob/main/{}", env!("CARGO_PKG_REPOSITORY"), self.docs)
    }

    fn examples_text(&self) -> String {
        let examples = self
            .examples
            .iter()
            .map(|Example { does, lines }| format!("  {does}\n    {}", lines.replace('\n', "\n    ")));
        format!("Examples:\n{}", examples.collect::<Vec<_>>().join("\n"))
    }

    fn codes_text(&self) -> String {
        let rows = self.codes.rows().map(|Row { code, meaning }| hanging(&format!("  {code:<6} "), meaning));
        format!("Exit codes:\n{}", rows.collect::<Vec<_>>().join("\n"))
    }
}

/// The narrowest terminal for which tables are laid out. clap wraps lines, but not to a column.
const NARROW: usize = 80;
const _: () = assert!(NARROW <= WIDEST);

/// Wraps `text` behind `start`, with the following lines below the first word.
fn hanging(start: &str, text: &str) -> String {
    let mut lines = vec![start.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.len() + word.len() > NARROW && line.trim() != start.trim() {
            lines.push(format!("{}{word} ", " ".repeat(start.len())));
        } else {
            *line += &format!("{word} ");
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, error::ErrorKind::DisplayHelp};

    use super::{
        super::{command, parse},
        *,
    };
    use crate::args::Cli;

    #[test]
    fn every_command_has_examples_and_an_address() {
        let root = command();
        let listed = root.get_subcommands().filter(|command| !command.is_hide_set());
        for name in listed.map(Command::get_name).chain([""]) {
            let page = PAGES.iter().find(|page| page.command == name);
            let page = page.unwrap_or_else(|| panic!("the command {name:?} has no page in PAGES"));
            assert!(!page.examples.is_empty(), "{name}");
        }
    }

    /// Returns the words of the call of `onelock` in a line for a shell.
    fn call(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line[line.find("onelock ").expect("an example calls onelock")..].chars() {
            match c {
                '\'' => quoted = !quoted,
                ';' | '|' | '>' | '}' if !quoted => break,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().expect("there is one").push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_example_is_a_valid_command_line() {
        let lines = PAGES.iter().flat_map(|page| page.examples).flat_map(|example| example.lines.lines());
        for line in lines.filter(|line| line.contains("onelock ")) {
            if cfg!(not(feature = "torture")) && line.contains("torture") {
                continue;
            }
            let parsed = with_texts(&call(line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            assert_eq!(format!("{:?}", parse_words(&call(line))), format!("{parsed:?}"), "{line}");
        }
    }

    fn with_texts(words: &[String]) -> Result<Cli, clap::Error> {
        Cli::from_arg_matches(&command().try_get_matches_from(words)?)
    }

    fn parse_words(words: &[String]) -> Result<Cli, clap::Error> {
        parse(words.iter().map(Into::into).collect())
    }

    #[test]
    fn help_and_mistakes_are_answered_with_the_texts() {
        for line in ["onelock run --help", "onelock run", "onelock run --nonblok x true", "onelock status --help"] {
            let [short, full] = [parse_words, with_texts].map(|parse| parse(&call(&format!("{line} "))).unwrap_err());
            assert_eq!(short.to_string(), full.to_string());
            assert_eq!(short.to_string().contains("Examples:"), short.kind() == DisplayHelp, "{line}: {short}");
        }
    }

    #[test]
    fn a_table_keeps_its_column() {
        let text = hanging("  1      ", &"word ".repeat(30));
        assert!(text.lines().all(|line| line.len() <= NARROW), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("         word")), "{text}");
    }
}
