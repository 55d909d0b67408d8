//! Runs `onelock torture` on a directory, Redis, PostgreSQL and DynamoDB Local at the same time.

use std::{
    fs, io,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

use test_support::{dynamodb::DynamoDbLocal, postgres::PostgresServer, redis::RedisServer};

/// Enough locks, and a ttl short enough, for tens of thousands of acquisitions in a minute. All
/// processes contend for the first few names.
const DENSITY: [&str; 4] = ["--names", "64", "--ttl", "1s"];

/// The counts of a report that are above zero on each of these stores.
const WANTED: [&str; 6] = ["killed", "frozen", "acquisitions", "shared", "permits", "handed_over"];

/// Tortures each store for `time` with the program `onelock`, and writes the reports into `out`.
/// Returns what is wrong, with the name of the store.
///
/// # Errors
/// If a file cannot be written or a program cannot be run.
///
/// # Panics
/// If a server does not start.
pub fn torture(onelock: &Path, time: &str, out: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(out)?;
    let directory = tempfile::tempdir()?;
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    let dynamodb = format!(
        "dynamodb://torture-{}?endpoint={}&region=eu-central-1&access_key_id=test&secret_access_key=test",
        std::process::id(),
        DynamoDbLocal::shared().endpoint()
    );
    for url in [&dynamodb, &postgres.url()] {
        let init = Command::new(onelock).args(["init", "--url", url]).stdin(Stdio::null()).output()?;
        if !init.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&init.stderr).into_owned()));
        }
    }
    let stores = [
        // A directory cannot be cut off, and PostgreSQL has no queue.
        ("files", format!("file://{}", directory.path().display()), &["queued"][..]),
        ("redis", format!("redis://{}", redis.addr()), &["queued", "cut_off"]),
        ("postgres", postgres.url(), &["cut_off"]),
        ("dynamodb", dynamodb, &["queued", "cut_off"]),
    ];
    let run = |url: &str| -> io::Result<Output> {
        Command::new(onelock)
            .args(["torture", "--json", "--time", time, "--url", url])
            .args(DENSITY)
            .stdin(Stdio::null())
            .output()
    };
    let mut wrong = Vec::new();
    thread::scope(|scope| {
        let running: Vec<_> = stores.iter().map(|(name, url, also)| (name, also, scope.spawn(|| run(url)))).collect();
        for (name, also, run) in running {
            let output = run.join().expect("the thread only runs a program")?;
            fs::write(out.join(format!("torture-{name}.json")), &output.stdout)?;
            wrong.extend(judge(&output, also).map(|what| format!("{name}: {what}")));
        }
        Ok(wrong)
    })
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
    WANTED
        .iter()
        .chain(also)
        .find(|what| report[**what].as_u64().unwrap_or_default() == 0)
        .map(|what| format!("the count of {what} is zero"))
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
        let counts = WANTED.iter().chain(&["queued"]).map(|what| ((*what).to_owned(), json!(1)));
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
        for what in WANTED.iter().chain(&["queued"]) {
            for missing in [json!(0), Value::Null] {
                let mut report = complete();
                report[*what] = missing;
                let shown = judge(&output(0, &report), &["queued"]);
                assert_eq!(shown, Some(format!("the count of {what} is zero")));
            }
        }
        assert_eq!(judge(&output(0, &complete()), &["cut_off"]), Some("the count of cut_off is zero".to_owned()));
    }

    #[test]
    fn a_run_without_a_report_shows_its_error() {
        let output = Output { stdout: Vec::new(), ..output(1, &Value::Null) };
        assert_eq!(judge(&output, &[]), Some("the store cannot be reached".to_owned()));
    }
}
