//! What an uncontended cycle, an acquire and a release, costs in each mode, and what a hand-over
//! costs: without a clock, compared with the committed files beside this one.
//!
//! `ONELOCK_GOLDEN=write cargo nextest run -p integration costs` writes these files anew; read the
//! difference before it is committed.

mod figures;

use std::{
    path::PathBuf,
    process::Command,
    thread::{self, ScopedJoinHandle},
};

use figures::{Figure, compare};
use test_support::{
    Scratch,
    callgrind::{self, Counts},
    redis::{RedisServer, command},
    wait_for,
};

/// How far a number of instructions may be from the recorded one, as a share of it.
///
/// Another compiler or C library changes it by a few percent.
const INSTRUCTIONS: f64 = 0.1;
/// System calls include those with which threads wake each other, which vary a little. Under
/// valgrind each look at a clock is one too.
const SYSTEM_CALLS: f64 = 0.05;
/// The first cycle of a process may write as a whole what later ones overwrite in place.
const COMMANDS: f64 = 0.02;

/// The cycles of a short and of a long run. The difference leaves out what happens once.
const RUNS: [u32; 2] = [100, 300];
/// A server that is counted runs more cycles, because it also does what no request asks for.
const CYCLES_OF_A_SERVER: u32 = 1000;

/// The modes whose costs are recorded beside those of an exclusive lock.
const MODES: [&str; 2] = ["shared", "permit"];

fn uncontended(cycles: u32, mode: &str, store: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uncontended"));
    command.args([&cycles.to_string(), mode]).args(store);
    command
}

fn handed_over(times: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handed_over"));
    command.arg(times.to_string());
    command
}

/// Counts what a program does in one cycle on the store.
fn of_the_client(mode: &str, store: &[&str]) -> [Figure; 2] {
    of_one(|cycles| uncontended(cycles, mode, store))
}

/// Counts what a program does once. It is told how often it does that.
fn of_one(program: impl Fn(u32) -> Command) -> [Figure; 2] {
    let scratch = Scratch::new();
    let runs = RUNS.map(|cycles| {
        let log = scratch.path().join(cycles.to_string());
        let program = program(cycles);
        let status = Command::new("valgrind")
            .args(callgrind::arguments(&log))
            .arg(program.get_program())
            .args(program.get_args())
            .status()
            .expect("valgrind is not installed; this test needs it: apt-get install valgrind");
        assert!(status.success(), "{program:?}: {}", std::fs::read_to_string(&log).unwrap_or_default());
        callgrind::counts(&log).expect("valgrind writes the counts at the end")
    });
    let each = |count: fn(&Counts) -> u64| (count(&runs[1]) - count(&runs[0])) as f64 / f64::from(RUNS[1] - RUNS[0]);
    [
        Figure::new("instructions of the client", each(|run| run.instructions), INSTRUCTIONS),
        Figure::new("system calls of the client", each(|run| run.system_calls), SYSTEM_CALLS),
    ]
}

#[test]
fn a_cycle_in_memory_costs_what_is_recorded() {
    compare("memory.txt", &of_the_client("exclusive", &["memory"]));
}

#[test]
fn a_hand_over_costs_what_is_recorded() {
    compare("hand_over.txt", &of_one(handed_over));
}

#[test]
fn a_cycle_on_files_costs_what_is_recorded() {
    let scratch = Scratch::new();
    compare("files.txt", &of_the_client("exclusive", &["files", scratch.text()]));
}

#[test]
fn a_cycle_on_redis_costs_what_is_recorded() {
    let server = RedisServer::start();
    let mut figures = of_the_client("exclusive", &["redis", &url(&server)]).to_vec();
    figures.extend(commands(&server, "exclusive"));
    figures.extend(of_the_server(["exclusive"]));
    compare("redis.txt", &figures);
}

#[test]
fn a_cycle_in_memory_costs_what_is_recorded_in_each_mode() {
    compare("memory_modes.txt", &in_each_mode(|mode| of_the_client(mode, &["memory"]).to_vec()));
}

#[test]
fn a_cycle_on_files_costs_what_is_recorded_in_each_mode() {
    let figures = in_each_mode(|mode| {
        let scratch = Scratch::new();
        of_the_client(mode, &["files", scratch.text()]).to_vec()
    });
    compare("files_modes.txt", &figures);
}

#[test]
fn a_cycle_on_redis_costs_what_is_recorded_in_each_mode() {
    let mut figures = in_each_mode(|mode| {
        let server = RedisServer::start();
        let client = of_the_client(mode, &["redis", &url(&server)]);
        client.into_iter().chain(commands(&server, mode)).collect()
    });
    figures.extend(MODES.iter().zip(of_the_server(MODES)).map(|(mode, figure)| figure.of(mode)));
    // A client that asks fairly differs by its requests, hardly by its instructions.
    figures.extend(commands(&RedisServer::start(), "fair").into_iter().map(|figure| figure.of("fair")));
    compare("redis_modes.txt", &figures);
}

fn in_each_mode(figures: impl Fn(&str) -> Vec<Figure>) -> Vec<Figure> {
    MODES.iter().flat_map(|mode| figures(mode).into_iter().map(|figure| figure.of(mode))).collect()
}

fn url(server: &RedisServer) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

/// Counts the commands of one cycle at the server, including those in scripts.
fn commands(server: &RedisServer, mode: &str) -> Vec<Figure> {
    server.command(&["CONFIG", "RESETSTAT"]);
    assert!(uncontended(RUNS[0], mode, &["redis", &url(server)]).status().unwrap().success());
    let stats = server.command(&["INFO", "commandstats"]);
    let read = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls: f64 = rest.split_once(',')?.0.parse().ok()?;
        // Less than one in a cycle is what a connection begins with.
        let figure = || Figure::new(&format!("command {command}"), calls / f64::from(RUNS[0]), COMMANDS);
        (calls >= f64::from(RUNS[0])).then(figure)
    };
    let mut lines: Vec<_> = stats.lines().collect();
    lines.sort_unstable();
    lines.into_iter().filter_map(read).collect()
}

/// Counts the instructions of the server in one cycle of each mode, relative to those of
/// `SET NX PX` and `DEL`. Servers of other versions take other numbers of instructions for both.
fn of_the_server<const N: usize>(modes: [&str; N]) -> [Figure; N] {
    let cycles = |server: &RedisServer, mode: &str| {
        let mut program = uncontended(CYCLES_OF_A_SERVER, mode, &["redis", &url(server)]);
        assert!(program.status().unwrap().success());
    };
    let (nothing, raw, ours) = thread::scope(|scope| {
        let nothing = scope.spawn(|| instructions(|_| {}));
        let raw = scope.spawn(|| instructions(raw));
        let ours = modes.map(|mode| scope.spawn(move || instructions(|server| cycles(server, mode))));
        let run = |run: ScopedJoinHandle<'_, u64>| run.join().expect("the server runs");
        (run(nothing), run(raw), ours.map(run))
    });
    ours.map(|ours| {
        let ratio = (ours - nothing) as f64 / (raw - nothing) as f64;
        Figure::new("instructions of the server, relative to raw commands", ratio, INSTRUCTIONS)
    })
}

/// Returns how many instructions a server takes for `requests`, its start and its end.
fn instructions(requests: impl FnOnce(&RedisServer)) -> u64 {
    let scratch = Scratch::new();
    let log: PathBuf = scratch.path().join("log");
    let server = RedisServer::counting_instructions(log.clone());
    requests(&server);
    // The server ends instead of a reply.
    let _ = command(server.port(), &["SHUTDOWN", "NOSAVE"]);
    assert!(wait_for("the server to end", || callgrind::counts(&log).is_some()));
    callgrind::counts(&log).expect("the server has ended").instructions
}

fn raw(server: &RedisServer) {
    let client = redis::Client::open(url(server)).expect("a URL");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = client.get_multiplexed_async_connection().await.expect("the server answers");
        for _ in 0..CYCLES_OF_A_SERVER {
            let mut set = redis::cmd("SET");
            set.arg("raw").arg("0123456789abcdef0123456789abcdef").arg("NX").arg("PX").arg(30_000);
            set.exec_async(&mut connection).await.expect("the server answers");
            redis::cmd("DEL").arg("raw").exec_async(&mut connection).await.expect("the server answers");
        }
    });
}
