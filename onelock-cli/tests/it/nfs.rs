//! The command on real NFSv4.1, in a guest.

use std::time::Duration;

use test_support::nfs::Guest;

/// Runs a script on the server of the guest, with the command on its PATH, and prints what it
/// measured.
fn run(script: &str) {
    let out = Guest::new(script).limit(Duration::from_secs(600)).with(env!("CARGO_BIN_EXE_onelock")).run();
    out.lines().filter(|line| line.starts_with("FIGURE")).for_each(|line| println!("{line}"));
}

#[test]
fn a_job_on_a_client_that_is_cut_off_ends_before_the_other_clients_begins() {
    run(include_str!("nfs/cut.sh"));
}

#[test]
fn a_database_on_the_share_has_one_server_at_a_time_and_keeps_every_confirmed_row() {
    run(include_str!("nfs/postgres.sh"));
}

#[test]
fn the_doctor_names_what_is_unfit_and_two_clients_meet() {
    run(include_str!("nfs/doctor.sh"));
}
