//! Creates and checks the table.

use lock_core::{Error, ErrorKind};
use tokio_postgres::types::Type;

use crate::{config::Schema, error::unreadable, table::Table};

/// The columns, their types, and whether a value is mandatory.
const COLUMNS: &[(&str, &str, bool)] = &[
    // Text has no NUL, but names do.
    ("name", "bytea", true),
    ("id", "uuid", false),
    ("owner", "text", false),
    ("token", "bigint", true),
    ("seq", "bigint", true),
    ("acquired_at", "timestamp with time zone", false),
    ("expires_at", "timestamp with time zone", true),
    ("ttl", "interval", false),
    ("data", "bytea", false),
    ("broken_by", "text", false),
    ("last_id", "uuid", false),
    ("waiters_until", "timestamp with time zone", false),
    ("mode", "text", false),
    ("part_ids", "uuid[]", false),
    ("part_ends", "timestamp with time zone[]", false),
    ("part_owners", "text[]", false),
    ("part_tokens", "bigint[]", false),
    ("part_since", "timestamp with time zone[]", false),
    ("part_data", "bytea[]", false),
    ("ended_ids", "uuid[]", false),
    ("ended_by", "text[]", false),
    ("waiting_id", "uuid", false),
    ("waiting_mode", "text", false),
    ("waiting_owner", "text", false),
    ("waiting_until", "timestamp with time zone", false),
];

/// What a catalog says of the table: its kind, persistence, columns and key.
const SHAPE: &str = "select c.relkind::text, c.relpersistence::text,
    (select array_agg(a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod)
        || case when a.attnotnull then ' not null' else '' end)
        from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
    exists (select from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'name'
        where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null
        and i.indnkeyatts = 1 and i.indkey[0] = a.attnum),
    exists (select from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'expires_at'
        where i.indrelid = c.oid and a.attnum = any(i.indkey))
    from pg_catalog.pg_class c where c.oid = to_regclass($1)";

/// The columns of ShedLock.
const SHEDLOCK_COLUMNS: &[(&str, &str)] = &[
    ("name", "character varying"),
    ("lock_until", "timestamp without time zone"),
    ("locked_at", "timestamp without time zone"),
    ("locked_by", "character varying"),
];

/// Whether `columns` have a column `name` of ShedLock, of the type `kind`. The lengths of texts may
/// differ, and the precision of times from milliseconds on. A time with a zone would be that of the
/// session's zone, and one in whole seconds is rounded, so a lease would end before its guard.
fn has_column(columns: &[String], (name, kind): (&str, &str)) -> bool {
    columns.iter().any(|column| {
        let given = column.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).unwrap_or_default();
        let given = given.strip_suffix(" not null").unwrap_or(given);
        let (before, precision) =
            match given.split_once('(').and_then(|(before, rest)| Some((before, rest.split_once(')')?))) {
                None => (given.to_owned(), None),
                Some((before, (number, after))) => (format!("{before}{after}"), number.parse::<u32>().ok()),
            };
        before == kind && (!kind.starts_with("timestamp") || precision.is_none_or(|digits| digits >= 3))
    })
}

/// The statement that creates `table`.
pub(crate) fn create(table: &str, schema: Schema) -> String {
    match schema {
        Schema::Native => create_native(table),
        // As in the documentation of ShedLock.
        Schema::ShedLock => format!(
            "create table if not exists {table} (name varchar(64) not null, lock_until timestamp(3) not null, \
             locked_at timestamp(3) not null, locked_by varchar(255) not null, primary key (name))"
        ),
    }
}

/// `expires_at` has no index, so that a renewal changes no index (HOT); half of each page is left
/// free for the next version of a row.
fn create_native(table: &str) -> String {
    let columns = COLUMNS.iter().map(|(name, kind, is_mandatory)| match (*name, is_mandatory) {
        ("name", _) => format!("name {kind} primary key check (octet_length(name) between 1 and 1024)"),
        // 2^53 - 1: the largest that a token may be.
        ("token", _) => format!("token {kind} not null check (token between 0 and 9007199254740991)"),
        (name, true) => format!("{name} {kind} not null"),
        (name, false) => format!("{name} {kind}"),
    });
    format!(
        "create table if not exists {table} (\n    {}\n) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02)",
        columns.collect::<Vec<_>>().join(",\n    ")
    )
}

/// What is wrong with the table.
pub(crate) struct Shape {
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl Table {
    /// Creates the table. Returns `false` if it was there.
    pub(crate) async fn init(&self) -> Result<bool, Error> {
        if self.shape().await?.is_some() {
            return Ok(false);
        }
        let table = self.name.qualified_or_new(&self.connection).await?;
        self.connection.query(&create(&table, self.config.schema), &[]).await?;
        Ok(true)
    }

    /// Compares the table with what the statements need. Returns `None` if there is no table.
    pub(crate) async fn shape(&self) -> Result<Option<Shape>, Error> {
        let table = self.name.qualified_or_new(&self.connection).await?;
        let rows = self.connection.query(SHAPE, &[(&table, Type::TEXT)]).await?.rows;
        let Some(row) = rows.first() else { return Ok(None) };
        let read = || {
            let columns: Option<Vec<String>> = row.try_get(2)?;
            Ok((row.try_get(0)?, row.try_get(1)?, columns.unwrap_or_default(), row.try_get(3)?, row.try_get(4)?))
        };
        let (kind, persistence, columns, is_keyed, is_indexed): (String, String, Vec<String>, bool, bool) =
            read().map_err(unreadable)?;
        let mut shape = Shape { problems: Vec::new(), warnings: Vec::new() };
        if kind != "r" {
            shape.problems.push("it is not an ordinary table".into());
        }
        if persistence == "u" {
            shape.problems.push("it is unlogged, so a crash of the server deletes all locks".into());
        }
        let native = |(name, kind, is_mandatory): &(&str, &str, bool)| {
            format!("{name} {kind}{}", if *is_mandatory { " not null" } else { "" })
        };
        let missing: Vec<String> = match self.config.schema {
            Schema::Native => COLUMNS.iter().map(native).filter(|wanted| !columns.contains(wanted)).collect(),
            Schema::ShedLock => {
                let missing = SHEDLOCK_COLUMNS.iter().filter(|wanted| !has_column(&columns, **wanted));
                missing.map(|(name, kind)| format!("{name} {kind}")).collect()
            }
        };
        shape.problems.extend(missing.iter().map(|wanted| match wanted.contains("timestamp") {
            true => format!("it has no column {wanted}, with milliseconds at least"),
            false => format!("it has no column {wanted}"),
        }));
        if !is_keyed {
            shape.problems.push("its column name has no unique index".into());
        }
        if is_indexed {
            shape.warnings.push("its column expires_at has an index, which every renewal must change".into());
        }
        Ok(Some(shape))
    }
}

/// The error of a table that cannot have locks.
pub(crate) fn unsuitable(problems: &[String]) -> Error {
    let message = format!(
        "the table is no table of locks: {}; choose another one by the option table, and run onelock init",
        problems.join("; ")
    );
    Error::new(ErrorKind::StoreNotReady, message)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_column_of_shedlock_has_milliseconds_and_no_zone() {
        let time = ("lock_until", "timestamp without time zone");
        for (column, fits) in [
            ("lock_until timestamp without time zone not null", true),
            ("lock_until timestamp(3) without time zone", true),
            ("lock_until timestamp(2) without time zone not null", false),
            ("lock_until timestamp(3) with time zone not null", false),
            ("lock_until timestamp with time zone", false),
            ("lock_until_2 timestamp without time zone", false),
        ] {
            assert_eq!(super::has_column(&[column.to_owned()], time), fits, "{column}");
        }
        assert!(super::has_column(&["name character varying(64) not null".to_owned()], ("name", "character varying")));
    }

    #[test]
    fn the_readme_shows_the_statement_that_creates_the_table() {
        assert!(include_str!("../README.md").contains(&super::create_native("onelock")));
    }
}
