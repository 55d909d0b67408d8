//! Fenced writes to a SQL database: statements with placeholders for any client.
//!
//! There are two ways. [`FencedTable`] fences single rows: each row stores the token of its latest
//! writer, and the writing statement compares it. A [`Fence`] guards all writes of a transaction,
//! also in tables without tokens.
//!
//! A refused statement changes no row. Bind tokens as `i64` (`i64::from(token)`).

use std::fmt::Write as _;

/// The syntax of placeholders.
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

/// A table with the largest token of each name, which fences whole transactions:
///
/// 1. Begin a transaction.
/// 2. Run [`raise`](Self::raise) with the lock's name and the token. If it changes no row, a later
///    holder has written: roll back.
/// 3. Write, and commit.
///
/// The raised row stays locked until the commit, so no later holder can write in between. On
/// SQLite, begin with `BEGIN IMMEDIATE`.
///
/// Keep the transaction short: a holder that is frozen during it blocks the others until the
/// database ends it (PostgreSQL: `idle_in_transaction_session_timeout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The table's name.
    pub table: &'a str,
}

impl Fence<'_> {
    /// Returns the statement that creates the table unless it exists.
    pub fn create(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} (name TEXT PRIMARY KEY, token BIGINT NOT NULL)", quoted(self.table))
    }

    /// Returns the statement that raises the fence of a name to a token. Parameters: name, token.
    /// It changes no row if the fence is already higher.
    pub fn raise(&self, dialect: Dialect) -> String {
        FencedTable { table: self.table, key: &["name"], columns: &[], token: "token" }.upsert(dialect)
    }
}

/// A table whose rows store the token of their latest writer.
///
/// The column of the token should be `BIGINT NOT NULL DEFAULT 0`, for rows older than the fencing.
/// A deleted row has lost its token, so mark it as deleted instead.
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
    /// Returns the statement that changes an existing row. Parameters: the key's values, the
    /// columns' values, the token. It changes no row if the row has a larger token or does not
    /// exist.
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

    /// Returns the statement that changes or inserts a row. Parameters as for
    /// [`update`](Self::update). It changes no row if the row has a larger token.
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
            .expect("writing to a String cannot fail");
        text
    }
}

/// Quotes any text as an SQL identifier.
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
            "INSERT INTO \"accounts\" (\"bank\", \"id\", \"cents\", \"fence\") VALUES (?1, ?2, ?3, ?4) ON CONFLICT \
             (\"bank\", \"id\") \
             DO UPDATE SET \"cents\" = excluded.\"cents\", \"fence\" = excluded.\"fence\" WHERE \
             \"accounts\".\"fence\" <= excluded.\"fence\""
        );
    }

    #[test]
    fn no_name_escapes_its_quotes() {
        assert_eq!(Fence { table: "a\"; DROP TABLE b; --" }.create().matches("\"\"").count(), 1);
    }
}
