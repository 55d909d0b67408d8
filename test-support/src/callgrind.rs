//! Counts the instructions and system calls of a program, which no clock and no other process
//! changes.

use std::path::Path;

/// What a program did until it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Machine instructions outside the kernel.
    pub instructions: u64,
    /// System calls.
    pub system_calls: u64,
}

/// Returns the arguments of `valgrind`, before the program and its own arguments.
///
/// At the end of the program valgrind writes the counts to `log`.
///
/// # Panics
/// If the path is not text.
pub fn arguments(log: &Path) -> Vec<String> {
    let log = log.to_str().expect("a path of a test is text");
    let fixed = ["--tool=callgrind", "--collect-systime=msec", "--callgrind-out-file=/dev/null"];
    fixed.into_iter().map(Into::into).chain([format!("--log-file={log}")]).collect()
}

/// Reads the counts. `None` until the program has ended.
pub fn counts(log: &Path) -> Option<Counts> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, collected) = text.rsplit_once(" Collected : ")?;
    let mut numbers = collected.split_whitespace().map(str::parse);
    let mut number = || numbers.next()?.ok();
    Some(Counts { instructions: number()?, system_calls: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_once_the_program_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(counts(&log), None);
        std::fs::write(&log, "==7== Events    : Ir sysCount sysTime\n").unwrap();
        assert_eq!(counts(&log), None);
        std::fs::write(&log, "==7== Events    : Ir sysCount sysTime\n==7== Collected : 61234 17 3\n==7== \n").unwrap();
        assert_eq!(counts(&log), Some(Counts { instructions: 61_234, system_calls: 17 }));
    }
}
