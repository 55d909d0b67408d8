//! What a lock on NFS costs in requests, and what the pages say of it.

use std::{collections::BTreeMap, fs, path::Path};

use test_support::figures::Figure;

use super::compare;
use crate::nfs;

#[test]
fn a_cycle_on_nfs_costs_what_is_recorded_in_each_mode() {
    let figures: Vec<_> = nfs::requests().iter().map(|(name, number)| Figure::new(name, *number, 0.0)).collect();
    compare("nfs.txt", &figures);
}

fn recorded() -> BTreeMap<&'static str, f64> {
    let figures = include_str!("nfs.txt").lines().filter_map(|line| line.rsplit_once(' '));
    figures.map(|(name, number)| (name, number.parse().expect("a number"))).collect()
}

#[test]
fn the_pages_have_the_recorded_requests_of_nfs() {
    let recorded = recorded();
    let requests = |name: &str| recorded[name];
    let [exclusive, shared, permit] = ["exclusive", "shared", "permit"].map(|mode| {
        let [acquire, renew, release] =
            ["acquire", "renew", "release"].map(|step| requests(&format!("{mode}: {step}")));
        format!("{acquire} to acquire, {renew} to renew, {release} to release")
    });
    let [run, run_shared] = ["exclusive", "shared"].map(|mode| requests(&format!("{mode}: whole process")));
    let run_refused = requests("exclusive: whole process, refused");
    let refused = ["exclusive", "exclusive beside shared", "shared beside exclusive", "permit"];
    let [refused, by_shared, by_exclusive, no_permit] = refused.map(|case| requests(&format!("{case}: refused")));
    let [alone, beside] = ["exclusive: acquire", "shared: acquire"].map(requests);
    for (page, words) in [
        ("docs/files.md", format!("| a whole `onelock run`, with a name that was used before | {run}:")),
        ("docs/files.md", format!("| a whole `onelock run` with a shared lock | {run_shared}:")),
        ("docs/files.md", format!("| a whole `onelock run -n` that is refused | {run_refused} |")),
        ("docs/files.md", format!("| an exclusive lock, in a process that has used its name | {exclusive} |")),
        ("docs/files.md", format!("| a shared lock, also beside others | {shared} |")),
        ("docs/files.md", format!("| a permit, also beside others | {permit} |")),
        (
            "docs/files.md",
            format!(
                "| {refused}; {by_shared} if shared locks refuse an exclusive one, {by_exclusive} the other way round, \
                 and {no_permit} if all permits are taken |"
            ),
        ),
        (
            "docs/modes.md",
            format!(
                "| {exclusive} | {shared}; a permit takes one more to acquire | {refused} to {no_permit} requests |"
            ),
        ),
        ("docs/many-at-once.md", format!("| {run_refused} requests of NFS |")),
        ("DESIGN.md", format!("{alone} for an exclusive acquisition, {beside} for a\nshared one")),
    ] {
        let page_text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)).unwrap();
        assert!(page_text.contains(&words), "{page} does not say {words:?}");
    }
}

/// The pages state one figure for both.
#[test]
fn a_part_on_nfs_costs_the_same_beside_others_and_fairly() {
    let recorded = recorded();
    for (mode, other) in
        [("shared", "shared beside another"), ("permit", "permit beside another"), ("exclusive", "fair")]
    {
        for step in ["acquire", "renew", "release"] {
            let [one, same] = [mode, other].map(|mode| recorded[&*format!("{mode}: {step}")]);
            assert_eq!(one, same, "{step} of {mode} and of {other}");
        }
    }
}
