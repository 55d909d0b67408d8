//! Checks the crontab, the systemd units and the Kubernetes manifest of `examples/cron` with their
//! own tools, and their command lines with `onelock`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;
use test_support::python::python;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cron").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap()
}

fn output(command: &mut Command, package: &str) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}; this test needs it: apt-get install {package}"))
}

/// Returns both output streams.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn cron_accepts_the_crontab() {
    let check = |path: &Path| output(Command::new("crontab").arg("-n").arg(path), "cron");
    let checked = check(&example("crontab"));
    assert!(checked.status.success(), "{}", said(&checked));
    // The tool must also refuse a wrong file, or its acceptance proves nothing.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad"), read("crontab").replace("30 4 * * 0", "30 24 * * 0")).unwrap();
    assert!(!check(&dir.path().join("bad")).status.success());
}

/// Returns systemd's messages about the units, which name existing programs; `change` may break
/// them.
fn verified(change: impl Fn(String) -> String) -> String {
    let dir = tempfile::tempdir().unwrap();
    let units = ["nightly-etl.service", "nightly-etl.timer"].map(|name| {
        let unit = read(name);
        let unit = unit
            .replace("/usr/local/bin/onelock", env!("CARGO_BIN_EXE_onelock"))
            .replace("/usr/local/bin/nightly-etl", "/bin/true");
        let path = dir.path().join(name);
        fs::write(&path, change(unit)).unwrap();
        path
    });
    let checked = output(Command::new("systemd-analyze").arg("verify").args(units), "systemd");
    said(&checked).lines().filter(|line| line.contains("nightly-etl")).collect::<Vec<_>>().join("\n")
}

#[test]
fn systemd_accepts_the_units() {
    assert_eq!(verified(|unit| unit), "");
    assert!(verified(|unit| unit.replace("KillMode=mixed", "KillMode=all")).contains("Failed to parse kill mode"));
    assert!(verified(|unit| unit.replace("03:00:00", "25:00:00")).contains("Failed to parse calendar"));
}

#[test]
fn kubernetes_accepts_the_manifest() {
    let check = |path: &Path| {
        let tool = "import sys, kubernetes_validate.__main__ as m; sys.exit(m.main())";
        Command::new(python()).args(["-c", tool, "--strict"]).arg(path).output().unwrap()
    };
    let checked = check(&example("cronjob.yaml"));
    assert!(checked.status.success(), "{}", said(&checked));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.yaml"), read("cronjob.yaml").replace("concurrencyPolicy", "concurencyPolicy"))
        .unwrap();
    let checked = check(&dir.path().join("bad.yaml"));
    assert!(!checked.status.success(), "{}", said(&checked));
}

/// Returns all `onelock run` command lines, as lists of arguments.
fn command_lines() -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let crontab = read("crontab");
    let jobs = crontab.lines().filter_map(|line| line.split_once("\tonelock run ")).map(|(_, rest)| words(rest));
    let service = read("nightly-etl.service");
    let service =
        service.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/onelock run ")).map(words);
    let script = "import json, sys, yaml; job = \
        yaml.safe_load(open(sys.argv[1]))['spec']['jobTemplate']['spec']['template']['spec']; \
                  print(json.dumps(job['containers'][0]['command']))";
    let parsed = Command::new(python()).args(["-c", script]).arg(example("cronjob.yaml")).output().unwrap();
    let command: Vec<String> = serde_json::from_slice(&parsed.stdout).unwrap_or_else(|_| panic!("{}", said(&parsed)));
    assert_eq!(command[..2], ["onelock", "run"]);
    jobs.chain(service).chain([command[2..].to_vec()]).collect()
}

struct Host {
    dir: TempDir,
}

impl Host {
    /// Runs `onelock run` as the schedule does, but with `job`; returns the exit code.
    fn run(&self, line: &[String], job: &[&str]) -> Option<i32> {
        let end = line.iter().position(|word| word == "--").expect("the job follows --");
        let url = self.dir.path().join("url");
        fs::write(&url, format!("file://{}\n", self.dir.path().join("locks").display())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_onelock"));
        command.arg("run").args(&line[..=end]).args(job).env("ONELOCK_URL_FILE", url).env_remove("ONELOCK_URL");
        command.status().unwrap().code()
    }
}

#[test]
fn scheduled_command_lines_run_and_a_second_host_skips() {
    let host = Host { dir: tempfile::tempdir().unwrap() };
    let lines = command_lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in &lines {
        assert_eq!(host.run(line, &["sh", "-c", "exit 7"]), Some(7), "the exit code is not the job's: {line:?}");
    }
    for line in lines.iter().filter(|line| line.contains(&"-n".to_owned())) {
        // While the job runs, the same line on another host skips and succeeds. On this host the
        // environment says that the line runs under the lock itself.
        let marker = host.dir.path().join("ran twice");
        let inner = format!(
            "env -u ONELOCK_HELD \"{}\" run {} touch '{}'",
            env!("CARGO_BIN_EXE_onelock"),
            line[..line.len() - 1].join(" "),
            marker.display()
        );
        assert_eq!(host.run(line, &["sh", "-c", &inner]), Some(0), "{line:?}");
        assert!(!marker.exists(), "{line:?}");
    }
}
