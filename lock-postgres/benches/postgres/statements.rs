//! Counts the statements of each operation at the server.

use std::num::NonZeroU16;

use lock_core::{Mode, backend::Backend};

use super::{acquire, backend, current_thread, release, request, server};

pub(crate) fn run() {
    let server = server(&["shared_preload_libraries=pg_stat_statements"]);
    server.sql("create extension pg_stat_statements");
    let permit = Mode::Permit { of: NonZeroU16::MAX };
    current_thread().block_on(async {
        let (backend, other) = (backend(&server), backend(&server));
        acquire(&backend, "warm", Mode::Exclusive).await;
        acquire(&other, "warm too", Mode::Exclusive).await;
        let count = |what: &str| {
            let calls = "select coalesce(sum(calls), 0) from pg_stat_statements where query like '%onelock%name%'";
            println!("{what:<46} {:>6}", server.sql(calls));
            server.sql("select pg_stat_statements_reset()");
        };
        server.sql("select pg_stat_statements_reset()");
        println!("\nstatements");
        for (kind, mode) in [("exclusive", Mode::Exclusive), ("shared", Mode::Shared), ("permit", permit)] {
            let mut leases = Vec::new();
            for n in 0..100 {
                leases.push(acquire(&backend, &format!("{kind}-{n}"), mode).await);
            }
            count(&format!("100 acquisitions, {kind}"));
            assert!(backend.renew_many(&leases).await.iter().all(Result::is_ok));
            count("one batch of 100 renewals");
            for n in 0..100 {
                let _ = other.acquire(&request(&format!("{kind}-{n}"), Mode::Exclusive)).await.expect("an answer");
            }
            count("100 exclusive attempts that are refused");
            if mode == Mode::Exclusive {
                for n in 0..100 {
                    let _ = other.acquire(&request(&format!("{kind}-{n}"), permit)).await.expect("an answer");
                }
                count("100 attempts for a permit that are refused");
            }
            for lease in &leases {
                release(&backend, lease).await;
            }
            count("100 releases");
        }
        for n in 0..100 {
            let [one, two] = [(); 2].map(|()| request(&format!("race-{n}"), Mode::Exclusive));
            let (one, two) = tokio::join!(backend.acquire(&one), other.acquire(&two));
            assert!(one.is_ok() && two.is_ok(), "{one:?}, {two:?}");
        }
        count("100 races of two clients");
    });
}
