//! Measures a shared lock with many holders: all are in one row.

use std::time::Instant;

use lock_core::{
    Mode,
    backend::{Backend, Renewal},
};

use super::{acquire, backend, current_thread, median, micros, release, server};

const ROUNDS: usize = 100;

pub(crate) fn run() {
    let server = server(&["fsync=on"]);
    println!(
        "\n{:<10} {:>12} {:>16} {:>12} {:>16}",
        "holders", "renewal, µs", "WAL of it, bytes", "cycle, µs", "WAL of it, bytes"
    );
    let written = || server.sql("select pg_current_wal_insert_lsn() - '0/0'").parse::<f64>().expect("a number");
    current_thread().block_on(async {
        let backend = backend(&server);
        let mut leases = Vec::new();
        for holders in [1, 10, 100, 1000] {
            while leases.len() < holders {
                leases.push(acquire(&backend, "job", Mode::Shared).await);
            }
            let mut times = [Vec::new(), Vec::new()];
            let mut bytes = [0.0; 2];
            for kind in [0, 1] {
                let before = written();
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    if kind == 0 {
                        assert_eq!(backend.renew(&leases[0]).await.expect("an answer"), Renewal::Renewed);
                    } else {
                        let lease = acquire(&backend, "job", Mode::Shared).await;
                        release(&backend, &lease).await;
                    }
                    times[kind].push(micros(start.elapsed()));
                }
                bytes[kind] = (written() - before) / ROUNDS as f64;
            }
            let [renewals, cycles] = times.map(median);
            println!("{holders:<10} {renewals:>12.0} {:>16.0} {cycles:>12.0} {:>16.0}", bytes[0], bytes[1]);
            // Those that were acquired first would expire before the next round.
            for batch in leases.chunks(100) {
                assert!(backend.renew_many(batch).await.iter().all(Result::is_ok));
            }
        }
    });
}
