//! Runs `onelock torture` on several real stores at the same time.

use std::{
    any::Any,
    fs, io,
    path::Path,
    process::{Command, Output, Stdio},
    str::FromStr,
    thread,
};

use serde_json::Value;

use test_support::{
    dynamodb::DynamoDbLocal,
    object_stores::ObjectStoreServer,
    postgres::PostgresServer,
    redis::{RedisCluster, RedisServer},
    sentinel::SentinelSetup,
};

/// Enough locks for thousands of acquisitions in a minute. All processes contend for the first few
/// names.
const NAMES: [&str; 2] = ["--names", "64"];

/// The counts of a report that are above zero on each store.
const EVERYWHERE: [&str; 3] = ["killed", "frozen", "acquisitions"];

/// A store, with what a run on it must count beside [`EVERYWHERE`].
struct Tortured {
    name: &'static str,
    url: String,
    also: &'static [&'static str],
    /// Stops when it is dropped.
    _server: Box<dyn Any>,
}

impl Tortured {
    fn new(name: &'static str, url: String, also: &'static [&'static str], server: impl Any) -> Self {
        Self { name, url, also, _server: Box::new(server) }
    }
}

/// The stores that are tortured at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// A directory, Redis and PostgreSQL.
    Servers,
    /// DynamoDB Local. Beside the others it got a fifth as far, and once nowhere.
    DynamoDb,
    /// Stores of several servers, and an object store.
    Fleets,
}

impl Round {
    fn start(self) -> io::Result<Vec<Tortured>> {
        match self {
            Self::Servers => servers(),
            Self::DynamoDb => Ok(vec![dynamodb()]),
            Self::Fleets => Ok(fleets()),
        }
    }

    /// Short, for many takeovers. A request may take a fifth of it, and DynamoDB Local takes more
    /// than 200 ms at times.
    fn ttl(self) -> &'static str {
        match self {
            Self::DynamoDb => "3s",
            Self::Servers | Self::Fleets => "1s",
        }
    }
}

impl FromStr for Round {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "servers" => Ok(Self::Servers),
            "dynamodb" => Ok(Self::DynamoDb),
            "fleets" => Ok(Self::Fleets),
            _ => Err(format!("no round is called {name}: there are servers, dynamodb and fleets")),
        }
    }
}

fn servers() -> io::Result<Vec<Tortured>> {
    let directory = tempfile::tempdir()?;
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    Ok(vec![
        // A directory cannot be cut off, and PostgreSQL has no queue.
        Tortured::new(
            "files",
            format!("file://{}", directory.path().display()),
            &["shared", "permits", "queued", "handed_over"],
            directory,
        ),
        Tortured::new(
            "redis",
            format!("redis://{}", redis.addr()),
            &["shared", "permits", "queued", "handed_over", "cut_off"],
            redis,
        ),
        Tortured::new("postgres", postgres.url(), &["shared", "permits", "handed_over", "cut_off"], postgres),
    ])
}

/// On a server of its own, which contains nothing of earlier tests.
fn dynamodb() -> Tortured {
    let server = DynamoDbLocal::start("dynamodb-torture");
    let url = format!(
        "dynamodb://torture-{}?endpoint={}&region=eu-central-1&access_key_id=test&secret_access_key=test",
        std::process::id(),
        server.endpoint()
    );
    Tortured::new("dynamodb", url, &["shared", "permits", "queued", "handed_over", "cut_off"], server)
}

/// Only the one server of a URL can be behind a proxy. Sentinel and Cluster also tell clients the
/// addresses of their servers.
fn fleets() -> Vec<Tortured> {
    let (sentinel, cluster) = (SentinelSetup::start(), RedisCluster::start());
    let majority: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let (from, to) = (RedisServer::start(), PostgresServer::start());
    let objects = ObjectStoreServer::seaweedfs();
    objects.create_bucket("torture");
    let hosts = |ports: Vec<u16>| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let ports = |servers: &[RedisServer]| hosts(servers.iter().map(RedisServer::port).collect());
    vec![
        Tortured::new(
            "sentinel",
            format!("redis+sentinel://{}/{}", hosts(sentinel.ports()), SentinelSetup::SERVICE),
            &["shared", "permits", "queued", "handed_over"],
            sentinel,
        ),
        Tortured::new(
            "cluster",
            format!("redis+cluster://{}", ports(cluster.nodes())),
            &["shared", "permits", "queued", "handed_over"],
            cluster,
        ),
        Tortured::new("quorum", format!("redis+quorum://{}", ports(&majority)), &["shared", "handed_over"], majority),
        Tortured::new(
            "migrate",
            format!("migrate:?from=redis://{}&to={}", from.addr(), to.url().replace('@', "%40")),
            &["shared", "permits"],
            (from, to),
        ),
        Tortured::new(
            "objects",
            format!(
                "s3://torture/{}?endpoint={}&anonymous=true&skew=0s&poll_min=50ms&poll_max=500ms",
                std::process::id(),
                objects.endpoint()
            ),
            &["handed_over", "cut_off"],
            (),
        ),
    ]
}

/// Tortures each store of `round` for `time` with the program `onelock`, and writes the reports
/// into `out`. Returns what is wrong, with the name of the store.
///
/// # Errors
/// If a file cannot be written or a program cannot be run.
///
/// # Panics
/// If a server does not start.
pub fn torture(onelock: &Path, round: Round, time: &str, out: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(out)?;
    let stores = round.start()?;
    for store in &stores {
        prepare(onelock, &store.url)?;
    }
    let run = |url: &str| -> io::Result<Output> {
        Command::new(onelock)
            .args(["torture", "--json", "--time", time, "--url", url, "--ttl", round.ttl()])
            .args(NAMES)
            .stdin(Stdio::null())
            .output()
    };
    let mut wrong = Vec::new();
    thread::scope(|scope| {
        let running: Vec<_> =
            stores.iter().map(|Tortured { name, url, also, .. }| (name, also, scope.spawn(|| run(url)))).collect();
        for (name, also, run) in running {
            let output = run.join().expect("the thread only runs a program")?;
            fs::write(out.join(format!("torture-{name}.json")), &output.stdout)?;
            wrong.extend(judge(&output, also).map(|what| format!("{name}: {what}")));
        }
        Ok(wrong)
    })
}

/// Creates the table of a store that has one, and acquires its first lock while the machine is
/// idle. A Java server that has just started takes seconds of processor time for that.
fn prepare(onelock: &Path, url: &str) -> io::Result<()> {
    let succeeds = |arguments: &[&str]| -> io::Result<()> {
        let done = Command::new(onelock).args(arguments).stdin(Stdio::null()).output()?;
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.success() { Ok(()) } else { Err(io::Error::other(why)) }
    };
    for table in ["postgres://", "dynamodb://"].into_iter().filter_map(|scheme| url.find(scheme)) {
        succeeds(&["init", "--url", &url[table..].replace("%40", "@")])?;
    }
    succeeds(&["run", "--url", url, "onelock-torture-first", "--", "true"])
}

/// Returns what is wrong with a run: a broken promise, or a fault or a way that never happened.
fn judge(output: &Output, also: &[&str]) -> Option<String> {
    let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
        return Some(String::from_utf8_lossy(&output.stderr).into_owned());
    };
    println!("{} {}", output.status, summary(&report));
    if !output.status.success() {
        return Some(format!("{report:#}"));
    }
    EVERYWHERE
        .iter()
        .chain(also)
        .find(|what| report[**what].as_u64().unwrap_or_default() == 0)
        .map(|what| format!("the count of {what} is zero: {report:#}"))
}

fn summary(report: &Value) -> String {
    format!(
        "{}: {} acquisitions ({} shared, {} permits, {} queued, {} handed over), {} lost, \
         {} processes killed, {} frozen, {} cut off, {} violations",
        report["store"].as_str().unwrap_or_default().split('?').next().unwrap_or_default(),
        report["acquisitions"],
        report["shared"],
        report["permits"],
        report["queued"],
        report["handed_over"],
        report["lost"],
        report["killed"],
        report["frozen"],
        report["cut_off"],
        report["violations"]
    )
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use serde_json::json;

    use super::*;

    fn output(code: i32, report: &Value) -> Output {
        let (stdout, stderr) = (report.to_string().into_bytes(), b"the store cannot be reached".to_vec());
        Output { status: ExitStatus::from_raw(code << 8), stdout, stderr }
    }

    fn complete() -> Value {
        let counts = EVERYWHERE.iter().chain(&["queued"]).map(|what| ((*what).to_owned(), json!(1)));
        Value::Object(counts.chain([("violations".to_owned(), json!(0))]).collect())
    }

    #[test]
    fn a_complete_run_is_right() {
        assert_eq!(judge(&output(0, &complete()), &["queued"]), None);
    }

    #[test]
    fn a_failed_run_is_wrong_and_shows_its_report() {
        let shown = judge(&output(1, &complete()), &["queued"]).unwrap();
        assert!(shown.contains("\"violations\": 0"), "{shown}");
    }

    #[test]
    fn a_run_without_a_fault_or_a_way_is_wrong() {
        for what in EVERYWHERE.iter().chain(&["queued"]) {
            for missing in [json!(0), Value::Null] {
                let mut report = complete();
                report[*what] = missing;
                let shown = judge(&output(0, &report), &["queued"]).unwrap();
                assert!(shown.starts_with(&format!("the count of {what} is zero: {{")), "{shown}");
                assert!(shown.contains("\"violations\": 0"), "{shown}");
            }
        }
        let shown = judge(&output(0, &complete()), &["cut_off"]).unwrap();
        assert!(shown.starts_with("the count of cut_off is zero"), "{shown}");
    }

    #[test]
    fn a_run_without_a_report_shows_its_error() {
        let output = Output { stdout: Vec::new(), ..output(1, &Value::Null) };
        assert_eq!(judge(&output, &[]), Some("the store cannot be reached".to_owned()));
    }
}
