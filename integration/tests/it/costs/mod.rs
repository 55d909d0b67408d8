//! What an uncontended cycle, an acquire and a release, costs in each mode, and what a hand-over
//! costs: without a clock, compared with the committed files beside this one.
//!
//! `ONELOCK_GOLDEN=write cargo nextest run -p integration costs` writes these files anew; read the
//! difference before it is committed.

mod of_nfs;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::{self, ScopedJoinHandle},
};

use test_support::{
    Scratch,
    callgrind::{self, Counts},
    dynamodb::DynamoDbLocal,
    figures::{self, Figure, INSTRUCTIONS, SYSTEM_CALLS},
    postgres::PostgresServer,
    redis::{RedisServer, command},
    wait_for,
};

/// The first cycle of a process may write as a whole what later ones overwrite in place.
const COMMANDS: f64 = 0.02;

/// The cycles of a short and of a long run. The difference leaves out what happens once.
const RUNS: [u32; 2] = [100, 300];
/// Instructions vary by less than 1 % with fewer cycles too, which save time. System calls are not
/// compared: whether a reply is there at once or waited for changes them by a tenth.
const RUNS_OF_A_DATABASE: [u32; 2] = [20, 60];
/// One in the SDK of DynamoDB takes seven million where it is not optimised.
const RUNS_OF_AN_SDK: [u32; 2] = [5, 15];
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
    of_one(RUNS, |cycles| uncontended(cycles, mode, store))
}

/// Counts what a program does once. It is told how often it does that.
fn of_one(runs: [u32; 2], program: impl Fn(u32) -> Command) -> [Figure; 2] {
    let [short, long] = runs.map(|cycles| callgrind::run(&program(cycles)));
    let each = |count: fn(&Counts) -> u64| (count(&long) - count(&short)) as f64 / f64::from(runs[1] - runs[0]);
    [
        Figure::new("instructions of the client", each(|run| run.instructions), INSTRUCTIONS),
        Figure::new("system calls of the client", each(|run| run.system_calls), SYSTEM_CALLS),
    ]
}

fn compare(file: &str, figures: &[Figure]) {
    figures::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/costs").join(file), figures);
}

#[test]
fn a_cycle_in_memory_costs_what_is_recorded() {
    compare("memory.txt", &of_the_client("exclusive", &["memory"]));
}

#[test]
fn a_hand_over_costs_what_is_recorded() {
    compare("hand_over.txt", &of_one(RUNS, handed_over));
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
    let figures = |mode: &str| {
        let scratch = Scratch::new();
        of_the_client(mode, &["files", scratch.text()]).to_vec()
    };
    let fair = figures("fair").into_iter().map(|figure| figure.of("fair"));
    compare("files_modes.txt", &in_each_mode(figures).into_iter().chain(fair).collect::<Vec<_>>());
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

#[test]
fn a_cycle_on_postgres_costs_what_is_recorded() {
    let server = PostgresServer::start();
    let store = ["postgres", &server.url()];
    create_table(&store);
    compare("postgres.txt", &[of_a_database(RUNS_OF_A_DATABASE, &store)]);
}

#[test]
fn a_cycle_on_dynamodb_costs_what_is_recorded() {
    let endpoint = DynamoDbLocal::shared().endpoint();
    let table = format!("onelock-costs-{}", std::process::id());
    let login = "region=eu-central-1&access_key_id=test&secret_access_key=test";
    let store = ["dynamodb", &format!("dynamodb://{table}?endpoint={endpoint}&{login}")];
    create_table(&store);
    compare("dynamodb.txt", &[of_a_database(RUNS_OF_AN_SDK, &store)]);
}

fn of_a_database(runs: [u32; 2], store: &[&str]) -> Figure {
    let [instructions, _] = of_one(runs, |cycles| uncontended(cycles, "exclusive", store));
    instructions
}

/// Creates the table, which is no part of a cycle.
fn create_table(store: &[&str]) {
    assert!(uncontended(1, "exclusive", store).status().unwrap().success());
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
