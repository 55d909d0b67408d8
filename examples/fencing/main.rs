//! Writes a value with a fencing token: `fencing TARGET VALUE [PAUSE_MS]`.
//!
//! The resource itself refuses a write that arrives too late.
//!
//! TARGET is `sqlite:PATH`, `postgres://…` or `file:PATH`.

use std::{env, error::Error, path::Path, thread, time::Duration};

use onelock::{
    FencingToken,
    fencing::{
        file,
        sql::{Dialect, FencedTable},
    },
};
use rusqlite::params;
use tokio_postgres::NoTls;

/// A table whose rows keep the token of their latest writer.
const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL, fence BIGINT NOT NULL DEFAULT 0)";
const SETTINGS: FencedTable<'_> =
    FencedTable { table: "settings", key: &["name"], columns: &["value"], token: "fence" };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [target, value, pause @ ..] = args.as_slice() else {
        return Err("usage: fencing TARGET VALUE [PAUSE_MS]".into());
    };
    let locker = onelock::open(&env::var("ONELOCK_URL")?).await?;
    let guard = locker.acquire("settings/greeting").await?;
    let token = guard.token().ok_or("this store has no fencing tokens")?;
    guard.check()?;
    println!("locked, token {token}");
    if let [pause] = pause {
        // No check of the lock can prevent this: the thread stops between the check and the write,
        // as if it were swapped out.
        thread::sleep(Duration::from_millis(pause.parse()?));
    }
    if write(target, value, token).await? {
        println!("written: {value:?} with token {token}");
    } else {
        println!("refused: {value:?} with token {token}, by {target}");
    }
    println!("released: {:?}", guard.release().await?);
    Ok(())
}

/// Returns whether the resource accepted the write.
async fn write(target: &str, value: &str, token: FencingToken) -> Result<bool, Box<dyn Error>> {
    let fence = i64::from(token);
    match target.split_once(':') {
        Some(("sqlite", path)) => {
            let database = rusqlite::Connection::open(path)?;
            database.execute_batch(CREATE)?;
            Ok(database.execute(&SETTINGS.upsert(Dialect::Sqlite), params!["greeting", value, fence])? == 1)
        }
        Some(("postgres", _)) => {
            let (client, connection) = tokio_postgres::connect(target, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(CREATE).await?;
            let upsert = SETTINGS.upsert(Dialect::Postgres);
            Ok(client.execute(&upsert, &[&"greeting", &value, &fence]).await? == 1)
        }
        Some(("file", path)) => match file::replace(Path::new(path), token, value.as_bytes()) {
            Err(error) if file::stale(&error).is_some() => Ok(false),
            done => Ok(done.map(|()| true)?),
        },
        _ => Err(format!("{target:?} is not a target; use sqlite:PATH, postgres://… or file:PATH").into()),
    }
}
