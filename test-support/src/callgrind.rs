//! Counts the instructions and system calls of a program, which no clock and no other process
//! changes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Scratch, wait_for};

/// What a program did until it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Machine instructions outside the kernel.
    pub instructions: u64,
    /// System calls.
    pub system_calls: u64,
}

/// Runs the program, and counts what it and its forks do. A fork that becomes another program is
/// left out.
///
/// # Panics
/// If valgrind is missing, or the program fails.
pub fn run(program: &Command) -> Counts {
    let logs = Scratch::new();
    let mut command = Command::new("valgrind");
    command.args(arguments(&logs.path().join("%p"))).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .expect("valgrind is not installed; this test needs it: apt-get install valgrind");
    let processes = || fs::read_dir(logs.path()).expect("valgrind writes there").map(|entry| entry.unwrap());
    let texts = || processes().map(|log| fs::read_to_string(log.path()).unwrap_or_default()).collect::<String>();
    assert!(status.success(), "{program:?}: {}", texts());
    let has_ended = || processes().all(|log| !Path::new("/proc").join(log.file_name()).exists());
    assert!(wait_for("the forks of the program to end", has_ended));
    let counts: Vec<_> = processes().filter_map(|log| counts(&log.path())).collect();
    assert!(!counts.is_empty(), "{program:?}: valgrind writes the counts at the end: {}", texts());
    Counts {
        instructions: counts.iter().map(|counts| counts.instructions).sum(),
        system_calls: counts.iter().map(|counts| counts.system_calls).sum(),
    }
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
