//! A command under the lock sees the same environment as without `onelock`.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use super::fixture::{Locks, Running, code, is_alive, onelock, output, parse_pid, stdout};

/// Returns the output of `probe` when the shell's `prelude` runs it directly, and under the lock.
fn both(locks: &Locks, prelude: &str, probe: &str) -> (String, String) {
    let url = locks.url();
    let ours = [env!("CARGO_BIN_EXE_onelock"), "run", "--url", &url, "x", "--"];
    let run = |words: &[&str]| {
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", &format!("{prelude} \"$@\""), "sh"]).args(words).args(["sh", "-c", probe]);
        stdout(&mut command)
    };
    (run(&[]), run(&ours))
}

#[test]
fn the_command_inherits_mask_and_ignored_signals() {
    let locks = Locks::new();
    for prelude in [
        "exec",
        "exec env --ignore-signal=PIPE,HUP,CHLD,TERM,TSTP",
        "exec env --block-signal=USR1,CHLD,INT,PIPE",
        "exec env --default-signal",
    ] {
        let (direct, under) = both(&locks, prelude, "exec grep -E '^Sig(Blk|Ign|Cgt|Pnd)|^ShdPnd' /proc/self/status");
        assert_eq!(direct, under, "{prelude}");
        assert!(direct.contains("SigIgn"));
    }
}

#[test]
fn the_command_inherits_descriptors() {
    let locks = Locks::new();
    for prelude in ["exec", "exec 7</dev/null;", "exec 0<&-;", "exec 0<&- 2>&-;", "exec 5</dev/null 0<&- 9>/dev/null;"]
    {
        let (direct, under) =
            both(&locks, prelude, "cd /proc/self/fd; for fd in *; do readlink -v $fd; done 2>/dev/null | sed /pipe/d");
        assert_eq!(direct, under, "{prelude}");
        let (direct, under) = both(&locks, prelude, "exec ls /proc/self/fd");
        assert_eq!(direct, under, "{prelude}");
    }
}

#[test]
fn binary_data_passes_unchanged() {
    let locks = Locks::new();
    let data: Vec<u8> = (0..4_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut child = locks.run(["x", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, sent) = (child.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(received == data);
}

#[test]
fn a_reader_sees_the_end_when_the_command_closes_its_output() {
    let locks = Locks::new();
    let mut running = Running::start(&mut locks.run(["x", "-c", "echo $$; exec sleep 1000 >&-"]));
    let command = parse_pid(&running.line());
    let mut rest = String::new();
    running.out.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() && is_alive(command));
}

#[test]
fn a_reader_sees_the_end_of_an_inherited_descriptor() {
    let locks = Locks::new();
    let mut command = Command::new("setsid");
    command.args([
        "sh",
        "-c",
        "exec 7>&1 >/dev/null; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_onelock"),
        "run",
        "--url",
    ]);
    command.args([&locks.url(), "x", "-c", "echo $$ >&7; exec sleep 1000 7>&-"]);
    let mut running = Running::start(&mut command);
    let child = parse_pid(&running.line());
    let mut rest = String::new();
    running.out.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty() && is_alive(child));
}

#[test]
fn a_writer_gets_epipe_when_the_command_closes_its_input() {
    let locks = Locks::new();
    let mut child = locks
        .run(["x", "-c", "exec <&-; echo closed; exec sleep 1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let mut input = child.stdin.take().unwrap();
    // onelock closes its copy right after the start of the command.
    super::fixture::eventually("the pipe has no reader", || input.write_all(&[0; 512]).is_err());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_environment_describes_the_lock() {
    let locks = Locks::new();
    let probe = "echo $ONELOCK_NAME ${ONELOCK_TOKEN:-none} ${ONELOCK_EXPIRES_AT:-never}";
    let token = |text: &str| text.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    let first = stdout(locks.run(["x", "-c", probe]).env("ONELOCK_EXPIRES_AT", "1"));
    assert!(first.starts_with("x ") && first.trim_end().ends_with(" never"), "{first}");
    let second = stdout(&mut locks.run(["x", "-c", probe]));
    assert!(token(&second) > token(&first));

    let leased = stdout(&mut onelock(["run", "--url", "memory:", "--ttl", "100s", "a b", "-c", probe]));
    let expires: u64 = leased.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(leased.starts_with("a b ") && (now + 60..=now + 100).contains(&expires), "{leased}");
}

#[test]
fn arguments_and_environment_need_not_be_text() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let locks = Locks::new();
    let odd = OsStr::from_bytes(b"\xff\x01 '\"$");
    let output =
        output(locks.run(["x", "--", "sh", "-c", "printf '%s|%s' \"$1\" \"$ODD\"", "sh"]).arg(odd).env("ODD", odd));
    assert_eq!(output.stdout, [odd.as_bytes(), b"|", odd.as_bytes()].concat());
}

#[test]
fn a_shell_command_runs_in_the_users_shell() {
    let locks = Locks::new();
    assert_eq!(stdout(locks.run(["x", "-c", "echo a | tr a b"]).env_remove("SHELL")), "b\n");
    assert_eq!(code(locks.run(["x", "-c", "whatever"]).env("SHELL", "/bin/false")), 1);
}
