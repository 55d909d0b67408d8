//! Arguments of `onelock completions` and `onelock man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// The shell to print completions for.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell whose completions are printed.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// The place of the manual.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory into which a page for each command is written, such as /usr/local/share/man/man1;
    /// it is created if it is missing [default: print onelock(1) only].
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}
