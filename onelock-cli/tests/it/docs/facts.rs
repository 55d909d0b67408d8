//! Checks that options, metrics and messages on the pages are exactly those of the code.

use std::collections::BTreeSet;

use lock_core::Capability;

use super::{files_below, markdown::code, page, root, text};

/// The pages of the stores, with config strings that together accept all options of the page.
const STORES: &[(&str, &[&str])] = &[
    ("docs/files.md", &["file:///x", "efs:///x"]),
    ("docs/redis.md", &["redis://h", "rediss://h", "redis+sentinel://h/s"]),
    ("docs/dynamodb.md", &["dynamodb://t"]),
    ("docs/postgres.md", &["postgres://h"]),
    ("docs/object-stores.md", &["s3://b", "gs://b", "az://a/c"]),
    ("docs/memory.md", &["memory:"]),
];

#[test]
fn every_store_has_a_page_with_the_same_headings() {
    let headings = |path: &str| page(path).headings(2).map(ToOwned::to_owned).collect::<Vec<_>>();
    let first = headings(STORES[0].0);
    assert_eq!(first.len(), 8, "{first:?}");
    for (path, _) in STORES {
        assert_eq!(headings(path), first, "{path}");
    }
}

#[tokio::test]
async fn the_option_tables_list_exactly_the_options() {
    let shown = |path: &str| -> BTreeSet<String> {
        let rows = page(path).rows("option");
        rows.iter().flat_map(|row| code(&row[0])).map(ToOwned::to_owned).collect()
    };
    let common = known("memory:").await;
    assert_eq!(shown("docs/config-strings.md"), common);
    for (path, urls) in STORES.iter().chain(&[("docs/moving.md", &["migrate:"] as &[_])]) {
        let mut own = BTreeSet::new();
        for url in *urls {
            own.extend(known(url).await);
        }
        let own: BTreeSet<_> = own.difference(&common).cloned().collect();
        assert_eq!(shown(path), own, "{path}");
    }
}

/// Returns the options of a store, which it lists in the error for an unknown option.
async fn known(url: &str) -> BTreeSet<String> {
    let error = onelock::open(&format!("{url}?no-option=1")).await.unwrap_err().to_string();
    let (_, options) = error.split_once("Known: ").unwrap_or_else(|| panic!("{url}: {error}"));
    options.split(", ").map(ToOwned::to_owned).collect()
}

#[tokio::test]
// verifies: P11
async fn the_capability_table_matches_the_code() {
    let directory = tempfile::tempdir().unwrap();
    let files = format!("file://{}", directory.path().display());
    // One URL a column; the column of NFS cannot be checked with a local directory.
    let columns = [
        Some(files.as_str()),
        None,
        Some("redis://h"),
        Some("dynamodb://t"),
        Some("postgres://h"),
        Some("s3://b"),
        Some("memory:"),
    ];
    let rows = page("docs/which-store.md").rows("capability");
    assert_eq!(rows.len(), Capability::ALL.len());
    for (column, url) in columns.iter().enumerate().filter_map(|(column, url)| Some((column + 1, (*url)?))) {
        let has = onelock::open(url).await.unwrap().capabilities();
        for row in &rows {
            let capability: Capability = row[0].trim_matches('`').parse().unwrap();
            assert_eq!(row[column].starts_with("yes"), has.has(capability), "{url}: {capability}");
        }
    }
}

#[test]
fn the_metric_tables_match_the_code() {
    let in_code: BTreeSet<_> = sources().iter().flat_map(|source| metrics(source)).collect();
    let tables = files_below(&root().join("docs"), "md").into_iter().flat_map(|path| page(&path).rows("metric"));
    let rows: Vec<_> = tables.collect();
    let in_pages: BTreeSet<_> = rows.iter().flat_map(|row| code(&row[0])).map(ToOwned::to_owned).collect();
    assert!(in_code.len() > 5, "{in_code:?}");
    assert_eq!(in_pages, in_code);
}

fn metrics(source: &str) -> Vec<String> {
    // The functions are those of `lock-core/src/engine/metrics.rs`.
    let makers = ["counter!(\"", "gauge!(\"", "histogram!(\"", " by_outcome(\"", " plain(\"", " key(\"", "(&key(\""];
    let calls = makers.iter().flat_map(|call| source.split(call).skip(1));
    calls.filter_map(|behind| behind.split('"').next()).map(ToOwned::to_owned).collect()
}

/// Rows of tables headed `message` begin with messages in code, with `…` for variable parts.
#[test]
fn every_explained_message_is_in_the_code() {
    let sources: Vec<_> = sources().iter().map(|source| unwrapped(source)).collect();
    let is_said = |message: &str| {
        let pieces: Vec<_> = message.split('…').map(str::trim).filter(|piece| piece.len() > 3).collect();
        !pieces.is_empty() && sources.iter().any(|source| pieces.iter().all(|piece| source.contains(piece)))
    };
    let mut missing = Vec::new();
    for path in files_below(&root().join("docs"), "md") {
        for row in page(&path).rows("message") {
            assert!(code(&row[0]).next().is_some(), "{path}: {} is not marked as code", row[0]);
            missing.extend(code(&row[0]).filter(|said| !is_said(said)).map(|said| format!("{path}: {said}")));
        }
    }
    assert!(missing.is_empty(), "not in the code:\n{}", missing.join("\n"));
}

/// Returns the sources of the product, without their tests.
fn sources() -> Vec<String> {
    let crates = [
        "lock-core",
        "lock-migrate",
        "lock-efs",
        "lock-redis",
        "lock-dynamo",
        "lock-object",
        "lock-postgres",
        "onelock",
        "onelock-py",
    ];
    let files = crates.iter().flat_map(|name| files_below(&root().join(name).join("src"), "rs"));
    files
        .chain(files_below(&root().join("onelock-py/python"), "py"))
        .map(|path| text(&path))
        .map(|source| source.split("#[cfg(test)]\nmod tests {").next().unwrap_or("").to_owned())
        .collect()
}

/// Returns a source with each string literal on one line and unescaped.
fn unwrapped(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |text, line| text + line.trim_start());
    joined.replace("\\\"", "\"")
}

#[test]
fn a_literal_is_found_across_lines() {
    assert_eq!(unwrapped("\"a \\\n        b\""), "\"a b\"");
}
