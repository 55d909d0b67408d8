//! The resources check the token themselves: SQLite, PostgreSQL, DynamoDB Local and a file. Writers
//! write one after the other, and many at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::AttributeValue,
};
use onelock::{
    FencingToken,
    fencing::{
        dynamo::Condition,
        file,
        sql::{Dialect, Fence, FencedTable},
    },
};
use rusqlite::{Connection, TransactionBehavior, params};
use test_support::{postgres::PostgresServer, redis::RedisServer};
use tokio::runtime::Runtime;

use crate::fixture::{Process, dynamo::Table};

const ROW: FencedTable<'_> = FencedTable { table: "row", key: &["id"], columns: &["value"], token: "fence" };
const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS row (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, fence BIGINT NOT NULL DEFAULT 0)";
/// The table of a transaction; it has no column for the token.
const PLAIN: &str = "CREATE TABLE IF NOT EXISTS plain (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)";
const FENCE: Fence<'_> = Fence { table: "fences" };

/// A client of a resource with one value, which here is the token of the latest writer.
trait Resource {
    /// Returns whether the resource accepted the write.
    fn write(&mut self, token: FencingToken) -> bool;
    /// Returns the value.
    fn read(&mut self) -> u64;
}

fn token(token: u64) -> FencingToken {
    FencingToken::new(token).unwrap()
}

fn refuses_what_is_older(resource: &mut dyn Resource) {
    assert!(resource.write(token(5)), "the first write is accepted");
    assert!(resource.write(token(5)), "a holder can write more than once");
    assert!(resource.write(token(7)), "the next holder can write");
    assert!(!resource.write(token(5)), "the previous holder is refused");
    assert!(!resource.write(token(6)));
    assert_eq!(resource.read(), 7);
    assert!(resource.write(FencingToken::MAX), "the largest token is accepted");
    assert_eq!(resource.read(), FencingToken::MAX.get());
}

/// Writes with tokens in any order. Whatever is accepted, the value never decreases.
fn never_falls<R: Resource>(connect: impl Fn() -> R + Sync) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut resource = connect();
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let value = resource.read();
                assert!(value >= last, "{value} after {last}");
                last = value;
            }
        });
        let writer = |number: u64| {
            let mut resource = connect();
            // Each writer begins at another token and counts up, so that older tokens always
            // compete with newer ones.
            let tries = (0..40).map(|step| token(1 + (step * 25) + number * 3));
            tries
                .filter(|token| {
                    let accepted = resource.write(*token);
                    let value = resource.read();
                    assert!(value >= token.get(), "{token} was accepted: {accepted}, but the value is {value}");
                    accepted
                })
                .count()
        };
        let writers: Vec<_> = (0..8).map(|number| scope.spawn(move || writer(number))).collect();
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Set before anything here can panic, because otherwise the reader would never end.
        done.store(true, Ordering::SeqCst);
        assert!(ends.into_iter().map(Result::unwrap).sum::<usize>() > 0);
    });
    assert_eq!(connect().read(), 1 + 39 * 25 + 7 * 3, "the largest token of all writers wins");
}

struct SqliteRow(Connection);

impl SqliteRow {
    fn open(path: &Path) -> Self {
        let database = Connection::open(path).unwrap();
        database.busy_timeout(Duration::from_secs(60)).unwrap();
        database.execute_batch(CREATE).unwrap();
        Self(database)
    }
}

impl Resource for SqliteRow {
    fn write(&mut self, token: FencingToken) -> bool {
        let value = i64::from(token);
        // Runs both statements: the second finds the row that the first may have made.
        let rows = self.0.execute(&ROW.upsert(Dialect::Sqlite), params![1, value, value]).unwrap();
        let again = self.0.execute(&ROW.update(Dialect::Sqlite), params![1, value, value]).unwrap();
        assert!(again <= rows, "the second statement refuses what the first refuses");
        rows == 1
    }

    fn read(&mut self) -> u64 {
        self.0.query_row("SELECT coalesce(max(value), 0) FROM row", [], |row| row.get(0)).unwrap()
    }
}

struct SqliteFence(Connection);

impl SqliteFence {
    fn open(path: &Path) -> Self {
        let database = Connection::open(path).unwrap();
        database.busy_timeout(Duration::from_secs(60)).unwrap();
        database.execute_batch(&format!("{}; {PLAIN}", FENCE.create())).unwrap();
        Self(database)
    }
}

impl Resource for SqliteFence {
    fn write(&mut self, token: FencingToken) -> bool {
        let value = i64::from(token);
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        if transaction.execute(&FENCE.raise(Dialect::Sqlite), params!["lock", value]).unwrap() == 0 {
            return false;
        }
        transaction.execute("INSERT OR REPLACE INTO plain VALUES (1, ?1)", [value]).unwrap();
        transaction.commit().unwrap();
        true
    }

    fn read(&mut self) -> u64 {
        self.0.query_row("SELECT coalesce(max(value), 0) FROM plain", [], |row| row.get(0)).unwrap()
    }
}

struct Postgres {
    runtime: Runtime,
    client: tokio_postgres::Client,
    by_transaction: bool,
}

impl Postgres {
    fn connect(url: &str, by_transaction: bool) -> Self {
        let runtime = Runtime::new().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, tokio_postgres::NoTls)).unwrap();
        runtime.spawn(connection);
        Self { runtime, client, by_transaction }
    }

    /// Creates empty tables.
    fn create(url: &str) {
        let new = Self::connect(url, false);
        let tables = format!("DROP TABLE IF EXISTS row, plain, fences; {CREATE}; {PLAIN}; {}", FENCE.create());
        new.runtime.block_on(new.client.batch_execute(&tables)).unwrap();
    }

    async fn row(client: &tokio_postgres::Client, value: i64) -> bool {
        let rows = client.execute(&ROW.upsert(Dialect::Postgres), &[&1_i64, &value, &value]).await.unwrap();
        let again = client.execute(&ROW.update(Dialect::Postgres), &[&1_i64, &value, &value]).await.unwrap();
        assert!(again <= rows, "the second statement refuses what the first refuses");
        rows == 1
    }

    async fn transaction(client: &mut tokio_postgres::Client, value: i64) -> bool {
        let transaction = client.transaction().await.unwrap();
        if transaction.execute(&FENCE.raise(Dialect::Postgres), &[&"lock", &value]).await.unwrap() == 0 {
            return false;
        }
        let write = "INSERT INTO plain VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET value = excluded.value";
        transaction.execute(write, &[&value]).await.unwrap();
        transaction.commit().await.unwrap();
        true
    }
}

impl Resource for Postgres {
    fn write(&mut self, token: FencingToken) -> bool {
        let value = i64::from(token);
        if self.by_transaction {
            self.runtime.block_on(Self::transaction(&mut self.client, value))
        } else {
            self.runtime.block_on(Self::row(&self.client, value))
        }
    }

    fn read(&mut self) -> u64 {
        let table = if self.by_transaction { "plain" } else { "row" };
        let query = format!("SELECT coalesce(max(value), 0) FROM {table}");
        let row = self.runtime.block_on(self.client.query_one(&query, &[])).unwrap();
        u64::try_from(row.get::<_, i64>(0)).unwrap()
    }
}

struct Dynamo {
    runtime: Runtime,
    client: Client,
    table: Arc<Table>,
}

impl Dynamo {
    fn connect(table: &Arc<Table>) -> Self {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(table.endpoint())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        let table = Arc::clone(table);
        Self { runtime: Runtime::new().unwrap(), client: Client::from_conf(config), table }
    }
}

impl Resource for Dynamo {
    fn write(&mut self, token: FencingToken) -> bool {
        let fence = Condition::new("fence", token);
        let number = |text: &str| AttributeValue::N(text.to_owned());
        let update = self
            .client
            .update_item()
            .table_name(self.table.name())
            .key("key", AttributeValue::S("a protected item".into()))
            .update_expression(format!("SET {}, #v = :v", fence.assignment))
            .condition_expression(fence.expression)
            .expression_attribute_names(fence.name.0, fence.name.1)
            .expression_attribute_names("#v", "value")
            .expression_attribute_values(fence.value.0, number(&fence.value.1))
            .expression_attribute_values(":v", number(&token.to_string()));
        match self.runtime.block_on(update.send()) {
            Ok(_) => true,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn read(&mut self) -> u64 {
        let key = AttributeValue::S("a protected item".into());
        let read = self.client.get_item().table_name(self.table.name()).key("key", key).consistent_read(true);
        let item = self.runtime.block_on(read.send()).unwrap().item;
        item.map_or(0, |item| item["value"].as_n().unwrap().parse().unwrap())
    }
}

struct Plain(PathBuf);

impl Resource for Plain {
    fn write(&mut self, token: FencingToken) -> bool {
        match file::replace(&self.0, token, token.to_string().as_bytes()) {
            Ok(()) => true,
            Err(error) => {
                let stale = file::stale(&error).unwrap_or_else(|| panic!("{error}"));
                assert!(stale.token == token && stale.seen > token, "{stale}");
                false
            }
        }
    }

    fn read(&mut self) -> u64 {
        fs::read_to_string(&self.0).map_or(0, |text| text.parse().expect("never half of one"))
    }
}

#[test]
fn sqlite_refuses_an_older_token() {
    let dir = tempfile::tempdir().unwrap();
    refuses_what_is_older(&mut SqliteRow::open(&dir.path().join("row.db")));
    refuses_what_is_older(&mut SqliteFence::open(&dir.path().join("fence.db")));
    never_falls(|| SqliteRow::open(&dir.path().join("many.db")));
    never_falls(|| SqliteFence::open(&dir.path().join("many.db")));
}

#[test]
fn postgresql_refuses_an_older_token() {
    let server = PostgresServer::start();
    for by_transaction in [false, true] {
        Postgres::create(&server.url());
        refuses_what_is_older(&mut Postgres::connect(&server.url(), by_transaction));
        Postgres::create(&server.url());
        never_falls(|| Postgres::connect(&server.url(), by_transaction));
    }
}

#[test]
fn dynamodb_refuses_an_older_token() {
    refuses_what_is_older(&mut Dynamo::connect(&Arc::new(Table::new())));
    let many = Arc::new(Table::new());
    never_falls(|| Dynamo::connect(&many));
}

#[test]
fn a_file_refuses_an_older_token() {
    let dir = tempfile::tempdir().unwrap();
    refuses_what_is_older(&mut Plain(dir.path().join("one")));
    never_falls(|| Plain(dir.path().join("many")));
    let left = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["many", "many.fence", "one", "one.fence"], "no temporary file is left");
    fs::write(dir.path().join("one.fence"), "half a tok").unwrap();
    let error = file::replace(&dir.path().join("one"), FencingToken::MAX, b"x").unwrap_err();
    assert!(error.to_string().contains("contains no fencing token"), "{error}");
}

#[test]
fn each_resource_refuses_an_example_paused_past_its_lease() {
    let (dir, redis, postgres) = (tempfile::tempdir().unwrap(), RedisServer::start(), PostgresServer::start());
    let path = |name: &str| dir.path().join(name).display().to_string();
    for target in [format!("sqlite:{}", path("db")), format!("file:{}", path("file")), postgres.url()] {
        let start = |value: &str, pause: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fencing"));
            command.args([&target, value]).args(pause);
            Process::start(command.env("ONELOCK_URL", format!("redis://127.0.0.1:{}?ttl=3s", redis.port())))
        };
        let mut first = start("first", &["500"]);
        first.wait_for("locked, token ");
        first.freeze();
        let mut second = start("second", &[]);
        assert!(second.ends().success(), "{:#?}", second.lines());
        second.wait_for("written: \"second\" with token ");
        first.thaw();
        first.wait_for("refused: \"first\" with token ");
        first.wait_for("released: NotHeld(");
        assert!(first.ends().success());
    }
}
