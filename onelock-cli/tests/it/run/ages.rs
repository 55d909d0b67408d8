//! The age of a lock comes from the store's clock, not from the clock of the machine that asks.

use test_support::{redis::RedisServer, set_clock_off};

use super::{
    fixture::{Running, onelock, output, stdout},
    init,
};

/// Asks from a machine whose wall clock is off by `offset`.
fn ask(command: &str, url: &str, offset: &str) -> String {
    let mut asking = onelock([command, "--url", url]);
    asking.args(if command == "run" { &["-n", "-v", "x", "true"][..] } else { &["x"] });
    set_clock_off(&mut asking, offset);
    let said = output(&mut asking);
    String::from_utf8([said.stdout, said.stderr].concat()).unwrap()
}

/// Returns the seconds in "x is held by OWNER for N s, ...", or in the column of a list.
fn age(line: &str) -> u64 {
    if let Some((_, row)) = line.split_once("\nx     etl      ") {
        return row.split('s').next().unwrap().parse().unwrap();
    }
    let (_, rest) = line.split_once(" for ").unwrap_or_else(|| panic!("no age in {line}"));
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
// verifies: clock-set
fn ages_do_not_depend_on_the_asking_machines_clock() {
    let server = RedisServer::start();
    let table = init::url();
    stdout(&mut onelock(["init", "--url", &table]));
    for url in [format!("redis://{}", server.addr()), table] {
        let script = "echo held; sleep 1000";
        let mut holder = Running::start(&mut onelock(["run", "--url", &url, "--owner", "etl", "x", "-c", script]));
        holder.expect_line("held");
        for offset in ["+3600s", "-3600s"] {
            for command in ["status", "list", "run"] {
                let line = ask(command, &url, offset);
                let is_held = line.contains(" is held by etl for ") || line.contains("\nx     etl      ");
                assert!(is_held, "{offset} {url}: {line}");
                // Far more than this test takes, far less than the clock is off.
                assert!(age(&line) < 1_800, "{offset} {url}: {line}");
            }
        }
        let held: serde_json::Value =
            serde_json::from_str(&stdout(&mut onelock(["status", "--json", "--url", &url, "x"]))).unwrap();
        assert!(held["held_for"].as_f64().is_some_and(|age| age < 1_800.0), "{held}");
    }
}
