//! Keeps the lock in the database that it protects: `one_transaction VALUE [PAUSE_MS]`.
//!
//! The transaction that writes looks at the row of the lock, compares the token, and keeps the row
//! until it commits. So the write and the lock cannot come apart.

use std::{env, error::Error, time::Duration};

use onelock::{ConfigString, FencingToken};
use tokio_postgres::{Client, NoTls};

const NAME: &str = "settings/greeting";

const CREATE: &str = "CREATE TABLE IF NOT EXISTS settings (name text PRIMARY KEY, value text NOT NULL)";

/// Finds the row of a lock that is held under this token.
///
/// `FOR SHARE` keeps other clients from the lock until the transaction ends, also after the ttl.
const STILL_HELD: &str = "SELECT FROM onelock WHERE name = convert_to($1, 'UTF8') AND token = $2 AND id IS NOT NULL \
    AND expires_at > clock_timestamp() FOR SHARE";

const WRITE: &str = "INSERT INTO settings (name, value) VALUES ('greeting', $1) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [value, pause @ ..] = args.as_slice() else {
        return Err("usage: one_transaction VALUE [PAUSE_MS]".into());
    };
    let url = env::var("DATABASE_URL")?;
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(CREATE).await?;

    let lock_url = ConfigString::parse(&url)?.with_option("ttl", "1s")?;
    let guard = onelock::open(lock_url).await?.acquire(NAME).await?;
    let token = guard.token().ok_or("this store has no fencing tokens")?;
    guard.check()?;
    println!("locked, token {token}");
    if let [pause] = pause {
        // No check of the lock can prevent this: the thread stops between the check and the write,
        // as if it were swapped out.
        std::thread::sleep(Duration::from_millis(pause.parse()?));
    }
    match write(&mut client, value, token).await? {
        true => println!("written: {value:?} with token {token}"),
        false => println!("refused: {value:?} with token {token}"),
    }
    println!("released: {:?}", guard.release().await?);
    Ok(())
}

/// Returns whether the lock was still held, and the value written.
async fn write(client: &mut Client, value: &str, token: FencingToken) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    if transaction.query_opt(STILL_HELD, &[&NAME, &i64::from(token)]).await?.is_none() {
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.execute(WRITE, &[&value]).await?;
    transaction.commit().await?;
    Ok(true)
}
