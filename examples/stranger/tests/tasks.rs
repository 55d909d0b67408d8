//! Runs the program of each task, and compares its length with the page.

use std::process::Command;

/// Runs the program of a task, with the store in a new directory, and returns its output.
fn run(binary: &str, contended: bool) -> String {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let _held = contended.then(|| {
        let locker = onelock::blocking::open(&url).unwrap();
        let guard = locker.lock("report").owner("another job").acquire().unwrap();
        (guard, locker)
    });
    let output = Command::new(binary).env("ONELOCK_URL", &url).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{binary}: {}", text(output.stderr));
    text(output.stdout)
}

macro_rules! tasks {
    ($($task:ident: $program:literal, $contended:literal => $($words:literal),+;)*) => {
        $(
            #[test]
            fn $task() {
                let printed = run(env!(concat!("CARGO_BIN_EXE_", $program)), $contended);
                for words in [$($words),+] {
                    assert!(printed.contains(words), "no {words:?} in {printed:?}");
                }
            }
        )*

        const PROGRAMS: &[&str] = &[$($program),*];
    };
}

tasks! {
    skip_works_when_free: "skip", false => "worked";
    skip_skips_when_contended: "skip", true => "skipped";
    wait_works_when_free: "wait", false => "worked";
    wait_gives_up_when_contended: "wait", true => "gave up: held by another job";
    loss_signal_reaches_another_task: "loss_signal", false => "stopped: the lock \"report\" was lost: its guard \
        released it";
    work_stops_on_loss: "stop_on_loss", false => "stopped: the lock \"report\" was lost";
    ttl_is_chosen_per_lock: "custom_ttl", false => "valid for 9 s";
    tokens_fence_writes: "fencing_token", false => "wrote twice";
    one_candidate_leads: "leader", false => "leading";
    config_string_chooses_the_store: "config_string", false => "locked on file:///";
    config_file_chooses_the_store: "config_file", false => "ttl 20s";
    loss_is_tested_on_a_paused_clock: "test_double", false => "the hour of work stopped: its record in the store is \
        gone";
    metrics_are_exported: "metrics", false => "onelock_attempts_total", "onelock_hold_seconds";
    threads_lock_without_a_runtime: "blocking", false => "worked";
    threads_skip_when_contended: "blocking", true => "skipped";
    run_works_when_free: "run", false => "worked";
    run_skips_when_contended: "run", true => "skipped: held by another job";
    one_locker_is_shared_by_tasks: "share", false => "three tasks, one locker";
}

/// Counts the lines that a user types, without comments and blank lines.
fn lines(program: &str) -> usize {
    let path = format!("{}/src/bin/{program}.rs", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count()
}

#[test]
fn page_counts_the_lines_of_each_program() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for program in PROGRAMS {
        let count = lines(program);
        assert!(count <= 40, "{program} has {count} lines");
        let row = format!("| [{program}](src/bin/{program}.rs) | {count} |");
        assert!(page.contains(&row), "README.md lacks {row}");
    }
}

#[test]
fn every_example_of_readmes_and_pages_is_compiled_here() {
    const { assert!(stranger::EXAMPLES >= 15, "the READMEs and the pages contain examples") };
}
