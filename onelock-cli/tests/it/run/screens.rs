//! What a person sees on a terminal of 80 and of 120 columns, compared with the files of
//! `tests/screens`.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

use super::fixture::{Locks, Running, eventually, onelock};
use crate::compare;

const ROWS: u16 = 24;
const OWNER: &str = "etl-7:4711-5be6a2c1";

/// A program on its own terminal.
struct Screen {
    child: Child,
    keyboard: File,
    parser: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    fn start(columns: u16, args: &[&str]) -> Self {
        // Not `openpty`, because processes of concurrent tests would inherit its descriptors.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname_r(&master).unwrap();
        let slave = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let size = ["rows", &ROWS.to_string(), "cols", &columns.to_string()];
        assert!(Command::new("stty").args(size).stdin(stdio()).status().unwrap().success());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_onelock")).args(args).env("TERM", "xterm");
        command.env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE").env_remove("NO_COLOR");
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(slave);
        let keyboard = File::from(OwnedFd::from(master));
        let parser = Arc::new(Mutex::new(vt100::Parser::new(ROWS, columns, 0)));
        let (mut output, shared) = (keyboard.try_clone().unwrap(), Arc::clone(&parser));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A closed terminal is reported as an error (EIO).
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                shared.lock().unwrap().process(&bytes[..n]);
            }
        });
        Self { child, keyboard, parser }
    }

    fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is that of the file.
    #[track_caller]
    fn expect(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens").join(file);
        let shown = fs::read_to_string(&path).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !compare::matches(&shown, &self.text()) {
            assert!(std::time::Instant::now() < end, "{file} is\n{shown}\nand the screen is\n{}", self.text());
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn expect_text(&self, text: &str) {
        eventually(text, || self.text().contains(text));
    }

    fn ends_with(mut self, code: i32) -> String {
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{}", self.text());
        self.text()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hold(locks: &Locks, owner: &str, name: &str) -> Running {
    let mut holder = Running::start(&mut locks.run(["--owner", owner, name, "sh", "-c", "echo held; sleep 1000"]));
    holder.expect_line("held");
    holder
}

fn locks() -> (Locks, String) {
    let locks = Locks::new();
    fs::create_dir(locks.dir.path().join("locks")).unwrap();
    let url = locks.url();
    (locks, url)
}

#[test]
fn status_fits_the_terminal() {
    let (locks, url) = locks();
    let holder = hold(&locks, OWNER, "nightly-etl");
    for columns in [80, 120] {
        let screen = Screen::start(columns, &["status", "--url", &url, "nightly-etl"]);
        screen.expect(&format!("status-{columns}.txt"));
    }
    drop(holder);
    eventually("the lock is free", || {
        super::fixture::code(&mut onelock(["status", "--url", &url, "nightly-etl"])) == 1
    });
    Screen::start(80, &["status", "--url", &url, "nightly-etl"]).expect("status-after-crash-80.txt");
}

#[test]
fn list_fits_the_terminal() {
    let (locks, url) = locks();
    let _holders = [
        hold(&locks, OWNER, "nightly-etl"),
        hold(&locks, "a-host-with-a-long-name.eu-west-1.compute.internal:4711-5be6a2c1", "reports/quarterly"),
        hold(&locks, "web", "a"),
    ];
    for columns in [80, 120] {
        let screen = Screen::start(columns, &["list", "--url", &url]);
        screen.expect(&format!("list-{columns}.txt"));
    }
}

#[test]
fn the_waiting_line_fits_and_is_erased() {
    let (locks, url) = locks();
    for columns in [80, 120] {
        let holder = hold(&locks, "a-host-with-a-long-name.eu-west-1.compute.internal:4711-5be6a2c1", "nightly-etl");
        let screen = Screen::start(columns, &["run", "--url", &url, "nightly-etl", "echo", "done"]);
        screen.expect(&format!("waiting-{columns}.txt"));
        // It is updated in its place.
        screen.expect_text("for 2s, held by ");
        assert_eq!(screen.text().lines().count(), 1, "{}", screen.text());
        drop(holder);
        screen.expect_text("done");
        let text = screen.ends_with(0);
        assert!(!text.contains("waiting for"), "{text}");
    }
}

#[test]
fn quiet_shows_nothing_while_waiting() {
    let (locks, url) = locks();
    let holder = hold(&locks, OWNER, "x");
    let screen = Screen::start(80, &["run", "-q", "--url", &url, "x", "echo", "done"]);
    // It has begun to wait.
    eventually("the queue is joined", || locks.dir.path().join("locks/x.queue").exists());
    drop(holder);
    screen.expect_text("done");
    assert_eq!(screen.ends_with(0).trim(), "done");
}

#[test]
fn break_shows_the_holder_and_asks() {
    let (locks, url) = locks();
    let _holder = hold(&locks, OWNER, "x");
    for (answer, code, text) in
        [("no\n", 1, "was not broken: the answer was not yes"), ("yes\n", 78, "stop the holder's process")]
    {
        let mut screen = Screen::start(120, &["break", "--url", &url, "x"]);
        screen.expect_text("Type yes: ");
        assert!(screen.text().starts_with(&format!("x is held by {OWNER} for ")), "{}", screen.text());
        screen.keyboard.write_all(answer.as_bytes()).unwrap();
        screen.expect_text(text);
        screen.ends_with(code);
    }
}

#[test]
fn watch_follows_the_locks() {
    let (locks, url) = locks();
    let screen = Screen::start(80, &["watch", "--url", &url, "--interval", "100ms"]);
    screen.expect_text("0 held in file://");
    let holder = hold(&locks, OWNER, "nightly-etl");
    screen.expect_text("1 held in file://");
    screen.expect_text(&format!("nightly-etl  {OWNER}"));
    drop(holder);
    screen.expect_text("0 held in file://");
    assert!(!screen.text().contains(OWNER), "{}", screen.text());
}

#[test]
fn doctor_shows_what_it_checks() {
    let (_locks, url) = locks();
    let screen = Screen::start(80, &["doctor", "--url", &url]);
    screen.expect_text("fit for locks");
    let text = screen.ends_with(0);
    assert!(!text.contains("onelock doctor: checking"), "{text}");
}
