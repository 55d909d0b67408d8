//! Loads a CSV file into a database: `etl_guard CSV DATABASE`.
//!
//! Every row is loaded once, however often the program is started, and wherever it is killed.

use std::{
    env,
    error::Error,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    process::ExitCode,
    time::Duration,
};

use onelock::fencing::sql::{Dialect, Fence};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

const BATCH: usize = 10_000;
const NAME: &str = "etl/orders";
const FENCE: Fence<'_> = Fence { table: "fences" };
/// sysexits(3): try again later.
const TEMPORARY_FAILURE: u8 = 75;

/// A second thread renews the lock, because a batch blocks the first one.
#[tokio::main(worker_threads = 1)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().collect();
    let [_, csv, database] = args.as_slice() else { return Err("usage: etl_guard CSV DATABASE".into()) };
    let locker = onelock::open(&env::var("ONELOCK_URL")?).await?;
    let guard = locker.lock(NAME).on_contention(|holder| println!("waiting for {holder}")).acquire().await?;
    let token = guard.token().ok_or("this store has no fencing tokens")?.into();
    println!("locked, token {token}");
    // `guard.run` reads the clocks before each batch. It drops the work before the lease ends, by
    // the time that `grace` in ONELOCK_URL sets.
    let outcome = guard.run(load(csv, database, token)).await;
    match outcome {
        Ok(Ok(rows)) => println!("done: {rows} rows in the database"),
        Ok(Err(error)) => return Err(error),
        Err(lost) => {
            println!("stopped: {lost}");
            return Ok(ExitCode::from(TEMPORARY_FAILURE));
        }
    }
    println!("released: {:?}", guard.release().await?);
    Ok(ExitCode::SUCCESS)
}

/// Continues after the last committed batch. Returns the number of rows in the database.
async fn load(csv: &str, database: &str, token: i64) -> Result<u64, Box<dyn Error>> {
    let mut database = Connection::open(database)?;
    database.busy_timeout(Duration::from_secs(60))?;
    database.execute_batch(&FENCE.create())?;
    database.execute_batch(
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER, customer TEXT, cents INTEGER);
         CREATE TABLE IF NOT EXISTS progress (job TEXT PRIMARY KEY, bytes INTEGER, rows INTEGER)",
    )?;
    let progress = "SELECT bytes, rows FROM progress WHERE job = ?1";
    let row = database.query_row(progress, [NAME], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (mut position, mut rows): (u64, u64) = row.unwrap_or_default();
    println!("starting at row {rows}");
    let mut csv = BufReader::new(File::open(csv)?);
    let size = csv.get_ref().metadata()?.len();
    csv.seek(SeekFrom::Start(position))?;
    loop {
        let batch: Vec<String> = csv.by_ref().lines().take(BATCH).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            return Ok(rows);
        }
        position = csv.stream_position()?;
        rows += batch.len() as u64;
        write(&mut database, &batch, (position, rows), token)?;
        println!("{rows} rows, {} %", 100 * position / size);
        // Returns to `guard.run`, which reads the clocks.
        tokio::task::yield_now().await;
    }
}

/// Writes the fence, the rows and the progress in one transaction.
fn write(
    database: &mut Connection,
    batch: &[String],
    (position, rows): (u64, u64),
    token: i64,
) -> Result<(), Box<dyn Error>> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.execute(&FENCE.raise(Dialect::Sqlite), params![NAME, token])? == 0 {
        println!("the database refused the batch: token {token} is too old");
        return Err("another holder has taken over".into());
    }
    let mut insert = transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3)")?;
    for line in batch {
        let [id, customer, cents] = line.split(',').collect::<Vec<_>>()[..] else { return Err(line.as_str().into()) };
        insert.execute(params![id, customer, cents])?;
    }
    drop(insert);
    transaction.execute("INSERT OR REPLACE INTO progress VALUES (?1, ?2, ?3)", params![NAME, position, rows])?;
    Ok(transaction.commit()?)
}
