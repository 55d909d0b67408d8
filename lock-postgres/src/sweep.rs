//! Removes the rows of names that are not used any more.

use std::time::Duration;

use lock_core::{Error, ErrorKind, LockName, Operation};
use tokio_postgres::types::Type;

use crate::{error::unreadable, table::Table};

/// Tokens of deleted rows stay below the server's clock, and late requests of their names have
/// arrived. A shorter time would depend on how far clocks differ.
const LEAST_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How many rows a statement deletes, so that it locks them for a short time.
const BATCH: usize = 1000;

impl Table {
    /// Returns the names whose rows have not been used for `idle`.
    pub(crate) async fn idle_names(&self, idle: Duration) -> Result<Vec<LockName>, Error> {
        if idle < LEAST_IDLE {
            let message = "the rows of PostgreSQL must be idle for at least 1d; choose a longer time";
            return Err(Error::new(ErrorKind::Config, message).with_operation(Operation::Purge));
        }
        let rows =
            self.connection.query(&self.sql().await?.idle_names, &[(&idle.as_secs_f64(), Type::FLOAT8)]).await?.rows;
        let mut names = Vec::new();
        for row in &rows {
            let name: &[u8] = row.try_get(0).map_err(unreadable)?;
            // Another client wrote a row whose name is not one of a lock.
            names.extend(std::str::from_utf8(name).ok().and_then(|name| LockName::new(name).ok()));
        }
        Ok(names)
    }

    /// Deletes the rows that have not been used for `idle`, and returns their names.
    pub(crate) async fn sweep(&self, idle: Duration) -> Result<Vec<LockName>, Error> {
        let mut swept = Vec::new();
        for names in self.idle_names(idle).await?.chunks(BATCH) {
            let bytes: Vec<_> = names.iter().map(|name| name.as_str().as_bytes()).collect();
            let parameters: &[_] = &[(&idle.as_secs_f64() as _, Type::FLOAT8), (&bytes as _, Type::BYTEA_ARRAY)];
            for row in &self.connection.query(&self.sql().await?.sweep, parameters).await?.rows {
                let number: i64 = row.try_get(0).map_err(unreadable)?;
                swept.extend(usize::try_from(number - 1).ok().and_then(|at| names.get(at)).cloned());
            }
        }
        swept.sort();
        Ok(swept)
    }
}
