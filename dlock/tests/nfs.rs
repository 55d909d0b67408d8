//! The command on real NFSv4.1, in a guest.

use integration::nfs::Guest;

/// A job on each client: it writes the time whenever it does something. A is cut off for longer than the lease.
const SCRIPT: &str = r#"#!/bin/bash
job() { echo "on_$1 dlock run --url efs:///efs/locks etl -c 'while :; do read up rest </proc/uptime; echo \$up; sleep 0.1; done'"; }
eval "$(job a)" >/tmp/a.out 2>/tmp/a.err &
until [ -s /tmp/a.out ]; do sleep 0.1; done
eval "$(job b)" >/tmp/b.out 2>/tmp/b.err &
sleep 3
[ -s /tmp/b.out ] && { echo "both run"; exit 1; }
cut_a
for i in {1..300}; do [ -s /tmp/b.out ] && break; sleep 0.1; done
sleep 1
last=$(tail -n 1 /tmp/a.out) first=$(head -n 1 /tmp/b.out)
echo "FIGURE dlock run: the job of the client that was cut off stopped at $last s, the other's began at $first s"
cat /tmp/a.err /tmp/b.err >&2
awk -v last="$last" -v first="$first" 'BEGIN { exit !(first > 0 && last < first) }' || { echo "they overlapped"; exit 1; }
"#;

#[test]
fn a_job_on_a_client_that_is_cut_off_ends_before_the_other_clients_begins() {
    let out = Guest::new(SCRIPT).with(env!("CARGO_BIN_EXE_dlock")).run();
    println!("{out}");
}
