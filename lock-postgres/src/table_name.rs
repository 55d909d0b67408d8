//! Finds the schema of a table whose name has none.
//!
//! The `search_path` of a session decides that otherwise, and a session of a pooler has that of
//! another client. So the schema is read once, by the search path of the user and the database.

use std::sync::OnceLock;

use lock_core::{Error, ErrorKind};
use tokio_postgres::types::Type;

use crate::{
    config::{PostgresConfig, quoted},
    connection::ConnectionSlot,
    error::unreadable,
};

/// The first schema that has the table, or else the first one, in which it would be created.
/// Temporary tables do not count. One may even have the name of a catalog, so each catalog is
/// named with its schema.
const SCHEMA: &str = "with c as materialized (
        select set_config('search_path', reset_val, true) as path
        from pg_catalog.pg_settings where name = 'search_path'
    )
    select s.schema::text, t.oid is not null
    from c, lateral unnest(case when c.path is not null then current_schemas(false) end) with ordinality s (schema, n)
        left join pg_catalog.pg_namespace p on p.nspname = s.schema
        left join pg_catalog.pg_class t on t.relnamespace = p.oid and t.relname = $1
    where s.schema not like 'pg\\_temp%' order by t.oid is null, s.n limit 1";

/// The name of the table in a config.
#[derive(Debug)]
pub(crate) struct TableName {
    name: String,
    /// The name with its schema, once the table was found.
    found: OnceLock<String>,
}

impl TableName {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let found = if config.names_schema() { OnceLock::from(config.quoted_table()) } else { OnceLock::new() };
        Self { name: config.table_name().to_owned(), found }
    }

    /// Returns the quoted name of the table, with its schema.
    pub(crate) async fn qualified(&self, connection: &ConnectionSlot) -> Result<&str, Error> {
        if let Some(name) = self.found.get() {
            return Ok(name);
        }
        // Each caller asks, so that none waits for a caller whose runtime stands still. The first
        // answer counts for all of them. Boxed, to keep the future of every request small.
        let name = Box::pin(self.existing(connection)).await?;
        Ok(self.found.get_or_init(|| name))
    }

    /// Returns the quoted name of the table, with the schema in which it is or would be created.
    pub(crate) async fn qualified_or_new(&self, connection: &ConnectionSlot) -> Result<String, Error> {
        match self.found.get() {
            Some(name) => Ok(name.clone()),
            None => self.find(connection).await.map(|(name, _)| name),
        }
    }

    async fn existing(&self, connection: &ConnectionSlot) -> Result<String, Error> {
        let (name, exists) = self.find(connection).await?;
        if !exists {
            // It fails as the statement itself would, unless the table has just been created.
            let answer = connection.query(&format!("select from {name} limit 0"), &[]).await;
            answer.map_err(|error| error.with_ambiguous(false))?;
        }
        Ok(name)
    }

    async fn find(&self, connection: &ConnectionSlot) -> Result<(String, bool), Error> {
        let answer = connection.query(SCHEMA, &[(&self.name, Type::TEXT)]).await;
        let rows = answer.map_err(|error| error.with_ambiguous(false))?.rows;
        let Some(row) = rows.first() else {
            let message = "no schema on the search_path of this PostgreSQL user exists and may be used by it; create \
                           one, or name the schema: table=SCHEMA.TABLE";
            return Err(Error::new(ErrorKind::StoreNotReady, message));
        };
        let read = || Ok((row.try_get(0)?, row.try_get(1)?));
        let (schema, exists): (String, bool) = read().map_err(unreadable)?;
        Ok((format!("{}.{}", quoted(&schema), quoted(&self.name)), exists))
    }
}
