//! Compares locking with the bare requests, in one run against DynamoDB Local:
//! `cargo bench -p lock-dynamo`.
//!
//! - An uncontended cycle against two bare `UpdateItem`s on an equal client, in alternating blocks.
//! - 25 renewals one by one against one conditional PartiQL batch.
//! - A thousand locks held.
//!
//! With the arguments `contestants WORKERS` it serves the program that writes docs/performance.md;
//! see `contestants`.

mod contestants;
mod raw;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use futures_util::future::join_all;
use lock_core::{
    LockName, Locker,
    backend::{AcquireOutcome, AcquireRequest, Backend, LeaseId},
};
use lock_dynamo::{DynamoBackend, DynamoConfig, TableOptions};
use test_support::{dynamodb::DynamoDbLocal, processor_time, wire::Wire};

const BLOCKS: usize = 40;
const CYCLES: u32 = 50;
const BATCH: usize = 25;
const HELD: usize = 1_000;
const TTL: Duration = Duration::from_secs(15);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo adds one.
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    match words[..] {
        ["contestants", workers] => contestants::serve(workers.parse().expect("a number of threads")),
        _ => measure(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    let server = tokio::task::spawn_blocking(DynamoDbLocal::shared).await.expect("it starts");
    let table = format!("bench-{}", LeaseId::random());
    let config = |endpoint: &str| {
        DynamoConfig::new(&table).endpoint(endpoint).region("eu-central-1").credentials("test", "test", None)
    };
    let backend = Arc::new(DynamoBackend::new(config(&server.endpoint())));
    backend.init(&TableOptions::default()).await.expect("the table is created");
    let raw = raw::as_onelock_does(&server.endpoint());

    println!("\n{:<44} {:>10} {:>10}", "median of one", "time", "CPU");
    cycles(&backend, &raw, &table).await;
    renewals(&backend).await;
    let wire = Wire::start(server.address());
    held(config(&wire.endpoint()), &wire).await;
}

fn request(name: &str) -> AcquireRequest {
    let name = LockName::new(name).expect("a good name");
    AcquireRequest::new(name, LeaseId::random(), "host:4711-0a1b2c3d").with_ttl(TTL)
}

/// Time and CPU time of one call, from blocks that alternate with those of other measurements.
#[derive(Default)]
struct Samples(Vec<(Duration, Duration)>);

impl Samples {
    async fn block(&mut self, times: u32, work: impl AsyncFn()) {
        let (started, used) = (Instant::now(), processor_time());
        for _ in 0..times {
            work().await;
        }
        self.0.push((started.elapsed() / times, (processor_time() - used) / times));
    }

    fn report(&mut self, what: &str) -> Duration {
        let median = |mut all: Vec<Duration>| {
            all.sort_unstable();
            all[all.len() / 2]
        };
        let time = median(self.0.iter().map(|(time, _)| *time).collect());
        let cpu = median(self.0.iter().map(|(_, cpu)| *cpu).collect());
        println!("{what:<44} {time:>10.1?} {cpu:>10.1?}");
        time
    }
}

async fn cycles(backend: &Arc<DynamoBackend>, raw: &Client, table: &str) {
    let locker = Locker::builder(Arc::clone(backend) as Arc<dyn Backend>).build().expect("the defaults fit");
    let bare = async || raw::two_updates(raw, table, "bare").await;
    // The attributes of a lock's item, without any of its guarantees.
    let alike = async || {
        for (from, to) in [("1", "2"), ("2", "1")] {
            let request = raw.update_item().table_name(table).key("key", AttributeValue::S("alike".into()));
            let request = (0..5).fold(request, |request, i| {
                request.expression_attribute_values(format!(":{i}"), AttributeValue::N("1795336000000".into()))
            });
            request
                .update_expression(
                    "SET version = :to, #owner = :o, ttl_ms = :0, expires_at = :1, collect_at = :2, acquired_at = \
                     :3, fence = :4 REMOVE released",
                )
                .condition_expression("attribute_not_exists(version) OR version = :from")
                .expression_attribute_names("#owner", "owner")
                .expression_attribute_values(":from", AttributeValue::S(from.into()))
                .expression_attribute_values(":to", AttributeValue::S(to.into()))
                .expression_attribute_values(":o", AttributeValue::S("host:4711-0a1b2c3d".into()))
                .send()
                .await
                .expect("it answers");
        }
    };
    let one_attempt = async || {
        let request = request("attempt");
        let AcquireOutcome::Granted(grant) = backend.acquire(&request).await.expect("it answers") else {
            panic!("it is free")
        };
        let _ = backend.release(&request.lease(grant.token), Duration::ZERO).await.expect("it answers");
    };
    let guard = async || {
        let guard = locker.acquire("guard").await.expect("it is free");
        let _ = guard.release().await.expect("it answers");
    };
    let [mut a, mut b, mut c, mut d] = [(); 4].map(|()| Samples::default());
    for _ in 0..BLOCKS {
        a.block(CYCLES, bare).await;
        b.block(CYCLES, one_attempt).await;
        c.block(CYCLES, guard).await;
        d.block(CYCLES, alike).await;
    }
    let base = a.report("two bare UpdateItems").as_secs_f64();
    let alike = d.report("two bare UpdateItems of as many attributes").as_secs_f64();
    let backend = b.report("acquire and release").as_secs_f64();
    let locker = c.report("Locker::acquire, Guard::release").as_secs_f64();
    println!("{:<44} {:>9.2}x  {:.2}x", "against two bare UpdateItems", backend / base, locker / base);
    println!("{:<44} {:>9.2}x  {:.2}x", "against those of as many attributes", backend / alike, locker / alike);
}

async fn renewals(backend: &DynamoBackend) {
    let requests: Vec<_> = (0..BATCH).map(|i| request(&format!("renewed{i}"))).collect();
    let mut leases = Vec::new();
    for request in &requests {
        let AcquireOutcome::Granted(grant) = backend.acquire(request).await.expect("it answers") else {
            panic!("it is free")
        };
        leases.push(request.lease(grant.token));
    }
    let one_by_one = async || {
        for answer in join_all(leases.iter().map(|lease| backend.renew(lease))).await {
            let _ = answer.expect("it answers");
        }
    };
    let batch = async || {
        for answer in backend.renew_many(&leases).await {
            let _ = answer.expect("it answers");
        }
    };
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for _ in 0..BLOCKS {
        a.block(4, one_by_one).await;
        b.block(4, batch).await;
    }
    a.report("25 renewals, 25 UpdateItems at once");
    b.report("25 renewals, one conditional PartiQL batch");
}

async fn held(config: DynamoConfig, wire: &Wire) {
    let locker = Locker::builder(Arc::new(DynamoBackend::new(config))).ttl(TTL).build().expect("the times fit");
    let before = resident();
    let mut guards = Vec::new();
    for chunk in (0..HELD).collect::<Vec<_>>().chunks(50) {
        let acquired = join_all(chunk.iter().map(|i| locker.acquire(format!("held{i}")))).await;
        guards.extend(acquired.into_iter().map(|guard| guard.expect("it is free")));
    }
    let after = resident();
    tokio::time::sleep(TTL / 3).await;
    wire.take_seen();
    let (started, used) = (Instant::now(), processor_time());
    tokio::time::sleep(2 * TTL).await;
    let time = started.elapsed().as_secs_f64();
    let requests = wire.take_seen().len();
    println!(
        "\n{HELD} locks held, ttl {TTL:?}: {:.0} requests/s, {:.1} % of a core with the proxy, {:.1} KB each, {} \
         connections, {} lost",
        f64::from(u32::try_from(requests).expect("few")) / time,
        100.0 * (processor_time() - used).as_secs_f64() / time,
        f64::from(u32::try_from(after.saturating_sub(before)).expect("small")) / 1_000.0,
        wire.connections(),
        guards.iter().filter(|guard| guard.check().is_err()).count()
    );
    join_all(guards.into_iter().map(|guard| async { drop(guard.release().await) })).await;
}

/// Returns the resident memory in kB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
