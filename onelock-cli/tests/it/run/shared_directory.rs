//! The table of docs/files.md about users who share a directory: every cell is run as these users.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::unistd::geteuid;

use super::fixture::{Locks, Running, eventually, output};

/// The groups of the directories.
const ETL: u32 = 54_320;
const READERS: u32 = 54_330;

/// A user, with its own group of the same number and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    title: &'static str,
    id: u32,
    group: Option<u32>,
}

const USERS: [User; 5] = [
    User { title: "root", id: 0, group: None },
    User { title: "A", id: 54_321, group: Some(ETL) },
    User { title: "B", id: 54_322, group: Some(ETL) },
    User { title: "reader", id: 54_323, group: Some(READERS) },
    User { title: "stranger", id: 54_324, group: None },
];
const A: u32 = USERS[1].id;

const UMASKS: [&str; 3] = ["022", "027", "077"];

/// The content of a cell: what a user can do in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Can {
    Lock,
    LockOwnNames,
    Ask,
    SeeHeld,
    Nothing,
}

use Can::{Ask, Lock, LockOwnNames, Nothing, SeeHeld};

/// The words of the table, each with what `run`, a question about a held lock, a question about a
/// free lock, and `sweep` do. A number is an exit code.
const WORDS: [(Can, &str, [&str; 4]); 5] = [
    (Lock, "locks", ["acquires every name", "names the holder", "says so", "works"]),
    (
        LockOwnNames,
        "own names",
        ["acquires names that no other user locked first; else 77", "says that it is held", "77", "77"],
    ),
    (Ask, "asks", ["77", "names the holder", "says so", "77"]),
    (SeeHeld, "sees held", ["77", "says that it is held, by an unknown holder", "77", "77"]),
    (Nothing, "refused", ["77", "77", "77", "77"]),
];

impl Can {
    fn word(self) -> &'static str {
        WORDS.iter().find(|(can, ..)| *can == self).expect("every cell has a word").1
    }

    /// Whether this user can use a name that `first` created.
    fn uses(self, is_own: bool) -> bool {
        self == Lock || (self == LockOwnNames && is_own)
    }
}

/// A kind of directory.
struct Row {
    directory: &'static str,
    /// The directory, or the parent of a missing one.
    owner: u32,
    group: u32,
    mode: u32,
    is_missing: bool,
    /// The option of the store.
    option: &'static str,
    cells: [Can; 5],
}

impl Row {
    /// A directory that exists, and needs no option.
    const fn of(directory: &'static str, owner: u32, group: u32, mode: u32, cells: [Can; 5]) -> Self {
        Self { directory, owner, group, mode, is_missing: false, option: "", cells }
    }

    const fn option(self, option: &'static str) -> Self {
        Self { option, ..self }
    }

    const fn missing(self) -> Self {
        Self { is_missing: true, ..self }
    }
}

/// Defines the rows, and a test for each.
macro_rules! rows {
    ($($test:ident: $row:expr,)*) => {
        const ROWS: &[Row] = &[$($row),*];

        mod every_cell_is_as_shown {
            use super::*;

            $(
                #[test]
                fn $test() {
                    check(&$row);
                }
            )*
        }
    };
}

rows! {
    private: Row::of("`700`, of A", A, A, 0o700, [Lock, Lock, Nothing, Nothing, Nothing]),
    readable: Row::of("`755`, of A", A, A, 0o755, [Lock, Lock, SeeHeld, SeeHeld, SeeHeld]),
    missing_of_one_user:
        Row::of("missing, in a `755` of A", A, A, 0o755, [Lock, Lock, Nothing, Nothing, Nothing]).missing(),
    readers_group:
        Row::of("`2750`, of A, group of the reader", A, READERS, 0o2750, [Lock, Lock, Nothing, Ask, Nothing])
            .option("640"),
    group: Row::of("`770`, group of A and B", 0, ETL, 0o770, [Lock, Lock, Lock, Nothing, Nothing]),
    group_with_mode:
        Row::of("`770`, group of A and B", 0, ETL, 0o770, [Lock, Lock, Lock, Nothing, Nothing]).option("660"),
    setgid_group_with_mode:
        Row::of("`2770`, group of A and B", 0, ETL, 0o2770, [Lock, Lock, Lock, Nothing, Nothing]).option("660"),
    missing_of_group:
        Row::of("missing, in a `770`, group of A and B", 0, ETL, 0o770, [Lock, Lock, Lock, Nothing, Nothing])
            .option("660")
            .missing(),
    readable_group: Row::of("`2775`, group of A and B", 0, ETL, 0o2775, [Lock, Lock, Lock, SeeHeld, SeeHeld]),
    readable_group_with_mode:
        Row::of("`2775`, group of A and B", 0, ETL, 0o2775, [Lock, Lock, Lock, Ask, Ask]).option("664"),
    all: Row::of("`777`", 0, 0, 0o777, [Lock, Lock, Lock, Lock, Lock]),
    sticky: Row::of("`1777`", 0, 0, 0o1777, [Lock, LockOwnNames, LockOwnNames, LockOwnNames, LockOwnNames]),
}

/// Returns the two tables of the page.
fn tables() -> String {
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let titles = USERS.map(|user| user.title);
    let mut text = line(&[&["directory", "`mode=`"], &titles[..]].concat());
    text += "|---|---|---|---|---|---|---|\n";
    for row in ROWS {
        let option = if row.option.is_empty() { "–" } else { row.option };
        text += &line(&[&[row.directory, option], &row.cells.map(Can::word)[..]].concat());
    }
    text += "\n| word | `run` | `status` and `list` of a held lock | `status` of a free lock | `sweep` |\n";
    text += "|---|---|---|---|---|\n";
    for (_, word, [run, held, free, sweep]) in WORDS {
        text += &line(&[word, run, held, free, sweep]);
    }
    text
}

#[test]
// verifies: shared-directory
fn the_page_shows_exactly_the_tables_of_this_test() {
    let page = include_str!("../../../../docs/files.md");
    assert!(page.contains(&tables()), "docs/files.md lacks these lines:\n{}", tables());
}

/// A directory of a row, which several users use in turn.
struct Shared<'a> {
    row: &'a Row,
    program: &'a Path,
    directory: PathBuf,
    /// Decides which user comes first, and which umask each user has.
    turn: usize,
}

/// Runs all commands as all users, three times: other users come first, and have other umasks.
fn check(row: &Row) {
    if !geteuid().is_root() {
        return eprintln!("only root can run processes of other users");
    }
    let locks = Locks::new();
    let program = locks.program_for_all();
    for turn in 0..UMASKS.len() {
        let directory = locks.dir.path().join(format!("turn-{turn}"));
        fs::create_dir(&directory).unwrap();
        chown(&directory, Some(row.owner), Some(row.group)).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(row.mode)).unwrap();
        let directory = if row.is_missing { directory.join("locks") } else { directory };
        let shared = Shared { row, program: &program, directory, turn };
        shared.acquire();
        shared.ask();
        shared.sweep();
    }
}

impl Shared<'_> {
    /// Returns the users in the order of this turn, each with its cell.
    fn users(&self) -> impl Iterator<Item = (User, Can)> {
        let order = (0..USERS.len()).map(|index| (index + self.turn) % USERS.len());
        order.map(|index| (USERS[index], self.row.cells[index]))
    }

    /// Returns the users that can use names which they created.
    fn lockers(&self) -> impl Iterator<Item = User> {
        self.users().filter(|(_, can)| can.uses(true)).map(|(user, _)| user)
    }

    /// Returns `onelock` as `user`, under the umask of this turn.
    fn command(&self, user: User, arguments: &[&str]) -> Command {
        let index = USERS.iter().position(|other| *other == user).unwrap();
        let umask = UMASKS[(index + self.turn) % UMASKS.len()];
        let group = user.group.map(|group| format!(",{group}")).unwrap_or_default();
        let ids = format!("--reuid={0} --regid={0} --groups={0}{group}", user.id);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec setsid setpriv {ids} \"$@\""), "sh"]);
        command.arg(self.program).args(arguments).env_remove("ONELOCK_URL").env_remove("ONELOCK_URL_FILE");
        command
    }

    fn url(&self) -> String {
        let option = if self.row.option.is_empty() { String::new() } else { format!("?mode={}", self.row.option) };
        format!("file://{}{option}", self.directory.display())
    }

    fn run(&self, user: User, name: &str) -> Output {
        output(&mut self.command(user, &["run", "-n", "--url", &self.url(), name, "true"]))
    }

    /// Asserts that a command of `user` succeeded, or was denied permission.
    #[track_caller]
    fn expect(&self, user: User, is_allowed: bool, done: &Output) {
        let (code, message) = (done.status.code(), String::from_utf8_lossy(&done.stderr));
        let warns = |line: &&str| line.starts_with("onelock: warning: every user can remove the lock files");
        let warnings = message.lines().filter(warns).count();
        let message: String = message.split_inclusive('\n').filter(|line| !warns(line)).collect();
        let place = format!("{} {} in turn {}: {done:?}", self.row.directory, user.title, self.turn);
        assert_eq!(warnings, usize::from(self.row.mode == 0o777), "{place}");
        if is_allowed {
            assert_eq!((code, &*message), (Some(0), ""), "{place}");
            return;
        }
        assert_eq!((code, message.lines().count()), (Some(77), 1), "{place}");
        assert!(message.contains("this user lacks permission; give it write access"), "{place}");
    }

    /// Each user creates a name, then all users try it, and then the first one again.
    fn acquire(&self) {
        for (first, can) in self.users() {
            let name = format!("of-{}", first.title);
            self.expect(first, can.uses(true), &self.run(first, &name));
            if can.uses(true) {
                for (next, can) in self.users() {
                    self.expect(next, can.uses(next == first), &self.run(next, &name));
                }
                self.expect(first, true, &self.run(first, &name));
            }
        }
    }

    /// All users ask about a lock of the first user of this turn, while it is free and while it is
    /// held.
    fn ask(&self) {
        let holder = self.lockers().next().expect("root can lock everywhere");
        let (name, url) = (format!("of-{}", holder.title), self.url());
        let may_read = |user, can| matches!(can, Lock | Ask) || user == holder;
        for (user, can) in self.users() {
            let asked = output(&mut self.command(user, &["status", "--url", &url, &name]));
            if may_read(user, can) {
                let shown = String::from_utf8_lossy(&asked.stdout);
                assert_eq!(asked.status.code(), Some(1), "{}: {shown}", user.title);
                assert!(shown.starts_with(&format!("{name} is free\n")), "{}: {shown}", user.title);
            } else {
                self.expect(user, false, &asked);
            }
        }
        let arguments = ["run", "--url", &url, "--owner", "job", &name, "-c", "echo held; exec sleep 1000"];
        let mut held = Running::start(&mut self.command(holder, &arguments));
        held.expect_line("held");
        for (user, can) in self.users() {
            if can.uses(user == holder) {
                assert_eq!(self.run(user, &name).status.code(), Some(1), "{}", user.title);
            }
            let owner = if may_read(user, can) { "job" } else { "an unknown holder" };
            for question in [&["status", "--url", &url, &name][..], &["list", "--url", &url]] {
                let asked = output(&mut self.command(user, question));
                if question[0] == "list" && matches!(can, SeeHeld | LockOwnNames) {
                    assert_unreadable_entries(&asked);
                } else {
                    self.expect(user, can != Nothing, &asked);
                }
                let shown = String::from_utf8_lossy(&asked.stdout);
                let answer = match question[0] {
                    _ if can == Nothing => String::new(),
                    "list" => format!("{name}  {owner}  "),
                    _ => format!("{name} is held by {owner}"),
                };
                assert!(shown.contains(&answer), "{} {question:?}: {shown}", user.title);
            }
        }
        drop(held);
        eventually("the killed holder has left the lock", || {
            let asked = output(&mut self.command(holder, &["status", "--url", &url, &name]));
            asked.status.code() == Some(1)
        });
    }

    /// All users clean up, first root. Then they use the names again.
    fn sweep(&self) {
        let directory = self.directory.to_str().unwrap();
        for (user, can) in USERS.into_iter().zip(self.row.cells) {
            let swept = output(&mut self.command(user, &["sweep", "--idle", "0s", directory]));
            self.expect(user, can == Lock, &swept);
        }
        for user in self.lockers() {
            self.expect(user, true, &self.run(user, &format!("of-{}", user.title)));
        }
    }
}

/// Asserts that a list named files which the user cannot read.
#[track_caller]
fn assert_unreadable_entries(listed: &Output) {
    let message = String::from_utf8_lossy(&listed.stderr);
    assert_eq!(listed.status.code(), Some(65), "{message}");
    assert!(message.lines().all(|line| line.starts_with("onelock: cannot read an entry: ")), "{message}");
    assert!(message.contains("this user lacks permission"), "{message}");
}
