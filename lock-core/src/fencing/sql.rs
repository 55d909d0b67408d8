//! Fenced writes to a SQL database: texts with placeholders for any client.
//!
//! Two ways. [`FencedTable`] fences single rows: each keeps the token of its latest writer, and the writing statement compares. A [`Fence`] guards all
//! that a transaction writes, in tables that know nothing of tokens.
//!
//! Either way a refusal shows as a statement that has changed no row. Tokens are bound as `i64` (`i64::from(token)`).

use std::fmt::Write as _;

/// How placeholders are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// `$1`
    Postgres,
    /// `?1`
    Sqlite,
}

impl Dialect {
    fn placeholder(self, number: usize) -> String {
        match self {
            Self::Postgres => format!("${number}"),
            Self::Sqlite => format!("?{number}"),
        }
    }
}

/// A table that keeps the largest token of each name, for whole transactions:
///
/// 1. begin a transaction,
/// 2. run [`raise`](Self::raise) with the lock's name and the token; if that has changed no row, roll back: a later holder was here,
/// 3. write whatever is to be written, and commit.
///
/// The raised row stays locked until the commit, so nobody can pass in between. On SQLite begin with `BEGIN IMMEDIATE`. A holder that
/// is frozen in the middle of a transaction stops the others until the database ends it
/// (PostgreSQL: `idle_in_transaction_session_timeout`), so keep it short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The table's name.
    pub table: &'a str,
}

impl Fence<'_> {
    /// Creates the table unless it is there.
    pub fn create(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} (name TEXT PRIMARY KEY, token BIGINT NOT NULL)", quoted(self.table))
    }

    /// Raises the fence of a name to a token. Parameters: name, token. Changes no row when the fence is higher already.
    pub fn raise(&self, dialect: Dialect) -> String {
        FencedTable { table: self.table, key: &["name"], columns: &[], token: "token" }.upsert(dialect)
    }
}

/// A table whose rows each keep the token of their latest writer.
///
/// The token's column should be `BIGINT NOT NULL DEFAULT 0`, for rows that are older than the fencing. A deleted row has forgotten its token: mark
/// it as deleted instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencedTable<'a> {
    /// The table's name.
    pub table: &'a str,
    /// The columns of its primary key.
    pub key: &'a [&'a str],
    /// The columns to write.
    pub columns: &'a [&'a str],
    /// The column of the token.
    pub token: &'a str,
}

impl FencedTable<'_> {
    /// Changes a row that is there. Parameters: the key's values, the columns' values, the token. Changes no row when the
    /// row has a larger token, or is not there.
    pub fn update(&self, dialect: Dialect) -> String {
        let numbered = |names: &[&str], first: usize| -> Vec<String> {
            let pairs = names.iter().zip(first..);
            pairs.map(|(name, number)| format!("{} = {}", quoted(name), dialect.placeholder(number))).collect()
        };
        let (keys, columns) = (self.key.len(), self.columns.len());
        let token = dialect.placeholder(keys + columns + 1);
        let mut set = numbered(self.columns, keys + 1);
        set.push(format!("{} = {token}", quoted(self.token)));
        let mut condition = numbered(self.key, 1);
        condition.push(format!("{} <= {token}", quoted(self.token)));
        format!("UPDATE {} SET {} WHERE {}", quoted(self.table), set.join(", "), condition.join(" AND "))
    }

    /// Changes a row, or inserts it. Parameters as for [`update`](Self::update). Changes no row when the row has a larger token.
    pub fn upsert(&self, dialect: Dialect) -> String {
        let (table, token) = (quoted(self.table), quoted(self.token));
        let list = |names: &[&str]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>();
        let mut all = [list(self.key), list(self.columns)].concat();
        all.push(token.clone());
        let placeholders: Vec<_> = (1..=all.len()).map(|number| dialect.placeholder(number)).collect();
        let mut text = format!("INSERT INTO {table} ({}) VALUES ({})", all.join(", "), placeholders.join(", "));
        let set: Vec<_> = all[self.key.len()..].iter().map(|name| format!("{name} = excluded.{name}")).collect();
        let key = list(self.key).join(", ");
        write!(text, " ON CONFLICT ({key}) DO UPDATE SET {} WHERE {table}.{token} <= excluded.{token}", set.join(", "))
            .expect("a String takes everything");
        text
    }
}

/// An identifier as SQL has it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: FencedTable<'_> =
        FencedTable { table: "accounts", key: &["bank", "id"], columns: &["cents"], token: "fence" };

    #[test]
    fn statements_number_their_parameters_in_one_order() {
        assert_eq!(
            ACCOUNTS.update(Dialect::Postgres),
            r#"UPDATE "accounts" SET "cents" = $3, "fence" = $4 WHERE "bank" = $1 AND "id" = $2 AND "fence" <= $4"#
        );
        assert_eq!(
            ACCOUNTS.upsert(Dialect::Sqlite),
            "INSERT INTO \"accounts\" (\"bank\", \"id\", \"cents\", \"fence\") VALUES (?1, ?2, ?3, ?4) ON CONFLICT (\"bank\", \"id\") \
             DO UPDATE SET \"cents\" = excluded.\"cents\", \"fence\" = excluded.\"fence\" WHERE \"accounts\".\"fence\" <= excluded.\"fence\""
        );
    }

    #[test]
    fn no_name_escapes_its_quotes() {
        assert_eq!(Fence { table: "a\"; DROP TABLE b; --" }.create().matches("\"\"").count(), 1);
    }
}
