//! Runs the shell code of one page from top to bottom in one session, as a reader would.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lock_core::backend::LeaseId;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use test_support::{
    dynamodb::DynamoDbLocal, object_stores::ObjectStoreServer, postgres::PostgresServer, python::python,
    redis::RedisServer,
};

use super::markdown::Block;
use crate::compare;

/// How long a page may run before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs all shell code of a page, and fails with every difference from the page.
///
/// `sh`, `bash` and `python` blocks must succeed. In `console` blocks `$` begins a command, `>`
/// continues it, and the other lines are its output. A command must succeed, unless a comment after
/// it says `# exit code 1`. A block that is marked as not run is only parsed.
pub(crate) fn run(path: &str) {
    check(path, &super::page(path).blocks);
}

/// Parses all shell code of a page without running it.
pub(crate) fn parse(path: &str) {
    let left_out = |block| Block { not_run: Some("only parsed".into()), ..block };
    check(path, &super::page(path).blocks.into_iter().map(left_out).collect::<Vec<_>>());
}

fn check(path: &str, blocks: &[Block]) {
    let blocks: Vec<_> = blocks.iter().filter(|block| block.is_run()).cloned().collect();
    let steps: Vec<_> = blocks.iter().flat_map(Step::all_of).collect();
    let place = Place::new(&blocks);
    let mut problems = Vec::new();
    let session = place.run(&steps);
    for (number, step) in steps.iter().enumerate() {
        let Some(Done { printed, code }) = place.done(&session, number) else {
            let step = format!("{path}:{}: the session ended or hung before or at\n{}", step.line, step.command);
            problems.push(format!("{step}\nThe whole of it:\n{session}"));
            break;
        };
        if code != step.code {
            problems.push(format!("{path}:{}: exit code {code} of\n{}\n{printed}", step.line, step.command));
        } else if step.shown.as_ref().is_some_and(|shown| !compare::matches(shown, &printed)) {
            let shown = step.shown.as_deref().unwrap_or_default();
            problems
                .push(format!("{path}:{}: {}\n-- shown:\n{shown}\n-- printed:\n{printed}", step.line, step.command));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// A command, with its expected output and exit code.
#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    /// The expected output; `None` if the page does not show it.
    shown: Option<String>,
    code: i32,
}

impl Step {
    fn all_of(block: &Block) -> Vec<Self> {
        let unseen = |command: &str| Self { line: block.line, command: command.into(), shown: None, code: 0 };
        if block.not_run.is_some() {
            let shell = if block.language == "console" { commands(block) } else { block.text.clone() };
            let parser = if block.language == "python" { "python3 -m ast" } else { "bash -n" };
            return vec![unseen(&format!("{parser} <<'THE_BLOCK'\n{shell}\nTHE_BLOCK"))];
        }
        if block.language == "python" {
            let first = block.first.as_deref().unwrap_or_default();
            return vec![unseen(&format!("python3 <(cat <<'THE_BLOCK'\n{first}\n{}\nTHE_BLOCK\n)", block.text))];
        }
        let mut steps: Vec<_> = block.first.iter().map(|first| unseen(first)).collect();
        if block.language == "console" {
            steps.extend(Self::of_console(block));
        } else {
            steps.push(unseen(&block.text));
        }
        steps
    }

    fn of_console(block: &Block) -> Vec<Self> {
        let mut steps: Vec<Self> = Vec::new();
        let mut unfinished = false;
        for (offset, line) in block.text.lines().enumerate() {
            let step = steps.last_mut();
            if let Some(command) = line.strip_prefix("$ ") {
                let code = command.rsplit_once("# exit code ").and_then(|(_, code)| code.trim().parse().ok());
                let line = block.line + offset;
                steps.push(Self { line, command: command.into(), shown: Some(String::new()), code: code.unwrap_or(0) });
                unfinished = command.ends_with('\\');
                continue;
            }
            let step = step.unwrap_or_else(|| panic!("line {}: a console block begins with `$ `", block.line));
            let continued = line.strip_prefix("> ").or(unfinished.then_some(line));
            if let Some(more) = continued {
                step.command += &format!("\n{more}");
            } else if let Some(shown) = &mut step.shown {
                *shown += &format!("{line}\n");
            }
            unfinished = continued.is_some_and(|more| more.ends_with('\\'));
        }
        steps
    }
}

/// Returns the commands of a console block without their output.
fn commands(block: &Block) -> String {
    Step::of_console(block).into_iter().map(|step| step.command).collect::<Vec<_>>().join("\n")
}

/// The result of a step.
struct Done {
    printed: String,
    code: i32,
}

/// The directory and servers of one page, and their names on the page.
struct Place {
    home: tempfile::TempDir,
    table: String,
    /// A Python with the libraries of other clients.
    python: Option<PathBuf>,
    redis: Option<RedisServer>,
    postgres: Option<PostgresServer>,
    dynamodb: Option<&'static DynamoDbLocal>,
    s3: Option<&'static ObjectStoreServer>,
}

impl Place {
    fn new(blocks: &[Block]) -> Self {
        let mention = |what: &str| {
            blocks.iter().any(|b| b.text.contains(what) || b.first.as_ref().is_some_and(|f| f.contains(what)))
        };
        let home = tempfile::tempdir().unwrap();
        let job = home.path().join("job.sh");
        fs::write(&job, "#!/bin/sh\nexec sleep 0.1\n").unwrap();
        fs::set_permissions(&job, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            home,
            table: format!("locks-{}", LeaseId::random()),
            python: blocks.iter().any(|block| block.language == "python").then(python),
            redis: mention("localhost:6379").then(RedisServer::start),
            postgres: mention("localhost/app").then(|| {
                let server = PostgresServer::start();
                server.sql("create database app");
                server
            }),
            dynamodb: mention("dynamodb:").then(DynamoDbLocal::shared),
            s3: mention("s3://my-bucket").then(s3),
        }
    }

    /// Pairs the names on the page with those of this run.
    fn names(&self) -> Vec<(&'static str, String)> {
        let directory = |name: &str| self.home.path().join(name).display().to_string();
        let mut names = vec![
            ("cargo run --release --", "onelock".into()),
            ("; sleep 60'", "; sleep 1'".into()),
            ("/var/lib/app", directory("app")),
            ("/mnt/efs", directory("efs")),
            ("dynamodb://locks", format!("dynamodb://{}", self.table)),
            ("s3://my-bucket/locks", format!("s3://my-bucket/{}", self.table)),
            ("table_name=\"locks", format!("table_name=\"{}", self.table)),
        ];
        names.extend(self.redis.iter().map(|server| ("localhost:6379", format!("127.0.0.1:{}", server.port()))));
        let postgres = |server: &PostgresServer| ("localhost/app", format!("127.0.0.1:{}/app", server.port()));
        names.extend(self.postgres.iter().map(postgres));
        names
    }

    fn here(&self, page: &str) -> String {
        self.names().iter().fold(page.into(), |text, (name, here)| text.replace(name, here))
    }

    fn as_shown(&self, printed: &str) -> String {
        let named = self.names().iter().skip(2).fold(printed.to_owned(), |text, (name, here)| text.replace(here, name));
        named.replace(&self.table, "locks").replace(self.home.path().to_str().unwrap(), "~")
    }

    /// Runs all steps in one shell, and returns the output.
    fn run(&self, steps: &[Step]) -> String {
        let script = self.script(steps);
        let output = File::create(self.home.path().join("output")).unwrap();
        let mut session = Session::start(self.shell(&script, output));
        session.wait();
        let printed = fs::read(self.home.path().join("output")).unwrap();
        String::from_utf8_lossy(&printed).into_owned()
    }

    fn script(&self, steps: &[Step]) -> String {
        let step = |(number, step): (usize, &Step)| {
            let command = self.here(&step.command);
            format!("printf '\\001begin {number}\\001'\n{{\n{command}\n}}\nprintf '\\001end {number} %d\\001' $?\n")
        };
        let steps: String = steps.iter().enumerate().map(step).collect();
        // DynamoDB Local is slow with its first table, and a page shows no retries.
        let table = format!("dynamodb://{}-first?region=us-east-1", self.table);
        let warm_up = self.dynamodb.map(|_| format!("until onelock init --url '{table}'; do sleep 0.1; done\n"));
        format!("trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{}{steps}", warm_up.unwrap_or_default())
    }

    fn shell(&self, script: &str, output: File) -> Command {
        let programs = self.python.as_deref().into_iter().chain([Path::new(env!("CARGO_BIN_EXE_onelock"))]);
        let directories: String = programs.map(|program| format!("{}:", program.parent().unwrap().display())).collect();
        let path = directories + &std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell.args(["-c", script]).current_dir(self.home.path()).process_group(0);
        shell.stdin(Stdio::null()).stderr(output.try_clone().unwrap()).stdout(output);
        shell.env_clear().env("PATH", path).env("HOME", self.home.path()).env("LC_ALL", "C");
        if self.postgres.is_some() {
            shell.env("PGUSER", "onelock");
        }
        if let Some(dynamodb) = self.dynamodb {
            shell.env("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.endpoint());
            shell.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        }
        if let Some(s3) = self.s3 {
            shell.env("AWS_ENDPOINT_URL_S3", s3.endpoint());
            shell.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        }
        shell
    }

    /// Returns the result of a step; `None` if the shell ended or hung before.
    fn done(&self, session: &str, number: usize) -> Option<Done> {
        let (_, printed) = session.split_once(&format!("\u{1}begin {number}\u{1}"))?;
        let (printed, end) = printed.split_once(&format!("\u{1}end {number} "))?;
        let (code, _) = end.split_once('\u{1}')?;
        Some(Done { printed: self.as_shown(printed), code: code.parse().ok()? })
    }
}

/// An S3 with the bucket of the pages.
fn s3() -> &'static ObjectStoreServer {
    let server = ObjectStoreServer::moto();
    server.create_bucket("my-bucket");
    server
}

/// A shell whose processes end with it.
struct Session(Child);

impl Session {
    fn start(mut shell: Command) -> Self {
        Self(shell.spawn().expect("bash is installed"))
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while self.0.try_wait().expect("the shell is a child of this process").is_none() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _: io::Result<_> = self.0.wait();
    }
}
