//! What a person sees on a terminal of 80 and of 120 columns, compared with the files of
//! `tests/screens`.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

use super::fixture::{Locks, Running, eventually, onelock, without_preferences};
use crate::compare;

/// Enough for every result that is compared as a whole.
const ROWS: u16 = 40;
const OWNER: &str = "etl-7:4711-5be6a2c1";

/// A program on its own terminal.
struct Screen {
    child: Child,
    keyboard: File,
    parser: Arc<Mutex<vt100::Parser>>,
}

/// Starts the text of a style on a screen, as the files of `tests/screens` have it.
fn mark(cell: &vt100::Cell) -> Option<&'static str> {
    match (cell.bold(), cell.fgcolor()) {
        (false, vt100::Color::Default) => None,
        (true, vt100::Color::Default) => Some("<bold>"),
        (false, vt100::Color::Idx(2)) => Some("<green>"),
        (false, vt100::Color::Idx(3)) => Some("<yellow>"),
        (true, vt100::Color::Idx(1)) => Some("<bold red>"),
        style => panic!("a style without a mark: {style:?}"),
    }
}

/// Returns the text of a row, with each style between `<style>` and `</>`.
fn marked_row(screen: &vt100::Screen, row: u16) -> String {
    let (mut text, mut style) = (String::new(), None);
    for cell in (0..screen.size().1).filter_map(|column| screen.cell(row, column)) {
        let next = mark(cell);
        if next != style {
            text += style.map_or("", |_| "</>");
            text += next.unwrap_or_default();
            style = next;
        }
        text += if cell.has_contents() { cell.contents() } else { " " };
    }
    text.truncate(text.trim_end().len());
    text + style.map_or("", |_| "</>")
}

impl Screen {
    fn start(columns: u16, args: &[&str]) -> Self {
        Self::start_with(ROWS, columns, args, &[])
    }

    fn start_with(rows: u16, columns: u16, args: &[&str], variables: &[(&str, &str)]) -> Self {
        // Not `openpty`, because processes of concurrent tests would inherit its descriptors.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname_r(&master).unwrap();
        let slave = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let size = ["rows", &rows.to_string(), "cols", &columns.to_string()];
        assert!(Command::new("stty").args(size).stdin(stdio()).status().unwrap().success());
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_onelock")).args(args).env("TERM", "xterm");
        without_preferences(&mut command).envs(variables.iter().copied());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(slave);
        let keyboard = File::from(OwnedFd::from(master));
        let parser = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
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

    /// Returns the text with the marks of its styles. A line that the terminal broke is one line.
    fn marked(&self) -> String {
        let parser = self.parser.lock().unwrap();
        let screen = parser.screen();
        let mut text = String::new();
        for row in 0..screen.size().0 {
            text += &marked_row(screen, row);
            text += if screen.row_wrapped(row) { "" } else { "\n" };
        }
        text.trim_end().to_owned()
    }

    /// Waits until the screen is that of the file.
    #[track_caller]
    fn expect(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens").join(file);
        let shown = fs::read_to_string(&path).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !compare::matches(&shown, &self.marked()) {
            assert!(std::time::Instant::now() < end, "{file} is\n{shown}\nand the screen is\n{}", self.marked());
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
    let directory = locks.dir.path().join("locks");
    fs::create_dir(&directory).unwrap();
    // A screen shows it, whatever the umask.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
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
    // The terminal may get one picture in two parts.
    eventually("the holder is no longer shown", || !screen.text().contains(OWNER));
}

#[test]
fn doctor_erases_what_it_checked_and_fits_the_terminal() {
    let (_locks, url) = locks();
    for columns in [80, 120] {
        let screen = Screen::start(columns, &["doctor", "--url", &url]);
        screen.expect_text("fit for locks");
        screen.expect(&format!("doctor-{columns}.txt"));
        screen.ends_with(0);
    }
    for columns in [80, 120] {
        let screen = Screen::start(columns, &["doctor", "--url", "file:///proc/no/locks?create=false"]);
        screen.expect(&format!("doctor-not-opened-{columns}.txt"));
        screen.ends_with(73);
    }
}

#[cfg(feature = "torture")]
#[test]
fn torture_shows_its_progress_and_its_verdict() {
    let (_locks, url) = locks();
    let screen = Screen::start(120, &["torture", "--url", &url, "--time", "2s", "--processes", "2"]);
    screen.expect_text("onelock torture: 1s of 2s, 2 processes, ");
    screen.expect_text("passed: file://");
    let marked = screen.marked();
    assert!(marked.contains("\n<green>passed</>: file://"), "{marked}");
    assert!(!screen.ends_with(0).contains("onelock torture: "));
    let screen = Screen::start(120, &["torture", "--url", "file:///proc/no/locks?create=false"]);
    screen.expect("torture-not-opened-120.txt");
    screen.ends_with(73);
}

#[test]
fn no_colour_reaches_a_pipe_or_a_user_who_wants_none() {
    let (locks, url) = locks();
    let _holder = hold(&locks, OWNER, "nightly-etl");
    let commands =
        [&["list", "--url", &url][..], &["status", "--url", &url, "nightly-etl"], &["doctor", "--url", &url]];
    for args in commands {
        let is_coloured = |variables: &[(&str, &str)]| {
            let mut screen = Screen::start_with(ROWS, 120, args, variables);
            assert!(screen.child.wait().unwrap().success());
            // The terminal is closed by its last process, and then everything was read.
            let last = if args[0] == "doctor" { "fit for locks" } else { OWNER };
            screen.expect_text(last);
            screen.marked().contains("</>")
        };
        assert!(is_coloured(&[]), "{args:?}");
        for variables in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            assert!(!is_coloured(&[variables]), "{args:?} {variables:?}");
        }
        let piped = super::fixture::output(onelock([]).args(args).env("TERM", "xterm"));
        assert!(!piped.stdout.contains(&0x1b), "{args:?}");
    }
}

/// Holds many locks with one process.
fn hold_many(url: &str, names: usize) -> Child {
    let mut hold = onelock(["hold", "--json", "--url", url]);
    let mut hold = hold.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let requests = hold.stdin.as_mut().unwrap();
    for number in 1..=names {
        writeln!(requests, "{{\"id\":{number},\"op\":\"acquire\",\"name\":\"job-{number:02}\"}}").unwrap();
    }
    let listed = || super::fixture::stdout(&mut onelock(["list", "--url", url])).lines().count();
    eventually("all are held", || listed() == names + 1);
    hold
}

#[test]
fn a_list_longer_than_the_terminal_has_a_pager() {
    let (_locks, url) = locks();
    let mut holder = hold_many(&url, 30);
    let list = |rows, args: &[&str], variables: &[(&str, &str)]| {
        Screen::start_with(rows, 80, &[&["list", "--url", &url], args].concat(), variables)
    };
    let mut screen = list(12, &[], &[]);
    screen.expect_text("job-10");
    assert!(screen.marked().starts_with("<bold>NAME") && !screen.text().contains("job-12"), "{}", screen.marked());
    // Ctrl-C is for the pager, which goes on.
    screen.keyboard.write_all(b"\x03").unwrap();
    eventually("the end of the list", || {
        // The pager drops keys that were typed before it read Ctrl-C.
        screen.keyboard.write_all(b"G").unwrap();
        screen.text().contains("job-30")
    });
    assert!(screen.child.try_wait().unwrap().is_none());
    screen.keyboard.write_all(b"q").unwrap();
    screen.ends_with(0);

    let screen = list(12, &[], &[("PAGER", "sed 's/^/paged /'")]);
    screen.expect_text("paged job-30");
    screen.ends_with(0);
    for (rows, args, variables) in [
        // It fits, or no pager is wanted, or there is none.
        (40, &[][..], ("PAGER", "exit 9")),
        (12, &["--no-pager"], ("PAGER", "exit 9")),
        (12, &[], ("PAGER", "cat")),
        (12, &[], ("PAGER", "")),
        (12, &[], ("PAGER", "no-such-pager 2>/dev/null")),
    ] {
        let screen = list(rows, args, &[variables]);
        screen.expect_text("job-30");
        screen.ends_with(0);
    }
    // Elsewhere there is no pager.
    let piped = super::fixture::stdout(onelock(["list", "--url", &url]).env("PAGER", "exit 9"));
    assert_eq!(piped.lines().count(), 31);
    drop(holder.stdin.take());
    holder.wait().unwrap();
}
