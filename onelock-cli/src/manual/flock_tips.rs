//! Tips for lines of `flock(1)` that `onelock run` refuses: those that name a descriptor.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

const TIP: &str = "for a lock that a script holds over several commands, as with `flock 9` and `flock -u 9`, use \
                   `onelock hold`; see `onelock hold --help`";

/// Adds the tip to an error of `onelock run` if the command or its `-u` points at `flock 9`.
pub(super) fn with_tip(mut error: Error) -> Error {
    let names = |wanted: &[&str]| match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) => wanted.contains(&named.as_str()),
        Some(ContextValue::Strings(named)) => named.iter().any(|named| wanted.contains(&named.as_str())),
        _ => false,
    };
    let is_of_a_descriptor = match error.kind() {
        ErrorKind::MissingRequiredArgument => names(&["<COMMAND>..."]) && !names(&["<NAME>"]),
        ErrorKind::UnknownArgument => names(&["-u", "--unlock"]),
        _ => false,
    };
    if is_of_a_descriptor {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![TIP.into()]));
    }
    error
}
