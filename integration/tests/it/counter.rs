//! Many processes contend for one name: no update is lost, and tokens increase.

use std::{fs, process::Command};

const PROCESSES: usize = 200;
const ROUNDS: usize = 50;

#[test]
fn two_hundred_processes_count_to_ten_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let resource = dir.path().join("counter");
    let contender = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contender"));
        command.arg(dir.path().join("locks")).arg("counter").arg(ROUNDS.to_string()).arg(&resource);
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..PROCESSES).map(|_| contender()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(&resource).unwrap(), (PROCESSES * ROUNDS).to_string());
    let tokens = fs::read_to_string(resource.with_extension("tokens")).unwrap();
    let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens.len(), PROCESSES * ROUNDS);
    let fallen: Vec<_> = tokens.windows(2).filter(|pair| pair[0] >= pair[1]).collect();
    assert!(fallen.is_empty(), "tokens that do not increase: {fallen:?}");
}
