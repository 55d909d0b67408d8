//! Measures onelock beside raw requests and other lock libraries, in one run.
//!
//! - `cargo run --release -p performance page` writes `docs/performance.md` and its pictures.
//! - `cargo run --release -p performance PART ...` prints the tables of these parts.
//! - The word `quick` makes all parts short, to try them.
//!
//! The other libraries are installed below the target directory.

mod crowd;
mod dynamodb;
mod effort;
mod files;
mod flavor;
mod hand_off;
mod held;
mod page;
mod peers;
mod postgres;
mod redis;
mod shares;
mod table;
mod turns;

use std::path::Path;

use effort::Effort;
use flavor::Flavor;
use table::Table;

/// A part of the page, with its name there.
type Part = (&'static str, fn(Effort) -> Vec<Table>);

/// The parts in the order in which they run.
const PARTS: [Part; 12] = [
    ("redis-cycle", redis::cycle::run),
    ("redis-hand-off", redis::hand_off::run),
    ("file-cycle", files::cycle::run),
    ("file-hand-off", files::hand_off::run),
    ("command", files::command::run),
    ("postgres-cycle", postgres::run),
    ("dynamodb-cycle", dynamodb::run),
    ("tasks", tasks),
    ("waiters", redis::crowd::waiters),
    ("file-waiters", files::waiters::run),
    ("processes", redis::crowd::processes),
    ("held", held),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["child", role, store, how, place, flavor] = words[..] {
        return child(role, store, how, place, Flavor::named(flavor));
    }
    let effort = Effort { quick: words.contains(&"quick") };
    words.retain(|word| *word != "quick");
    if words == ["page"] {
        return page::write(effort);
    }
    for word in words {
        let part = PARTS.iter().find(|(name, _)| *name == word);
        let names = PARTS.map(|(name, _)| name).join(", ");
        let (_, run) = part.unwrap_or_else(|| panic!("there is no part {word:?}; say page, or some of: {names}"));
        for table in run(effort) {
            println!("{}", table.markdown());
        }
    }
}

/// Tasks of one process, and of two.
fn tasks(effort: Effort) -> Vec<Table> {
    let mut tables = redis::crowd::tasks(effort);
    tables.push(shares::table(effort));
    tables
}

/// Locks that one process holds.
fn held(effort: Effort) -> Vec<Table> {
    vec![redis::held::run(effort), postgres::held::run(effort), files::held::run(effort)]
}

/// A process that the measurement started.
fn child(role: &str, store: &str, how: &str, place: &str, flavor: Flavor) {
    let port = || place.parse().expect("a port");
    match (role, store) {
        ("wait", "files") => files::hand_off::wait(how, Path::new(place), flavor),
        ("wait", "redis") => redis::hand_off::wait(how, port(), flavor),
        ("contend", "files") => files::waiters::contend(how, Path::new(place), flavor),
        ("contend", "redis") => redis::crowd::contend(how, port(), flavor),
        ("share", _) => shares::member(store, how, place, flavor),
        ("hold", "files") => files::held::hold(how, Path::new(place), flavor),
        ("hold", "postgres") => postgres::held::hold(how, place, flavor),
        ("hold", "redis") => redis::held::hold(how, port(), flavor),
        _ => panic!("unknown process {role} on {store}"),
    }
}
