//! Real NFSv4.1: a kernel server and two kernel clients, in a guest.

use integration::nfs::Guest;

fn guest(scenarios: &str) -> Guest {
    Guest::command(&format!("nfs_scenarios {scenarios}"))
        .with(env!("CARGO_BIN_EXE_nfs_scenarios"))
        .with(env!("CARGO_BIN_EXE_nfs_peer"))
}

/// Runs scenarios in one guest, and prints what they measured.
fn run(scenarios: &str) {
    for line in guest(scenarios).run().lines().filter(|line| line.starts_with("FIGURE")) {
        println!("{line}");
    }
}

#[test]
fn two_clients_exclude_each_other_and_a_killed_holder_frees_the_lock() {
    run("exclusion killed");
}
