//! Locks on DynamoDB: acquire and release of an uncontended lock.
//!
//! `cargo bench -p lock-dynamo` makes the cycles, in a process of its own. So this program needs no
//! AWS crates.

use crate::{
    effort::Effort,
    flavor::Flavor,
    peers::Process,
    table::Table,
    turns::{self, Block},
};

const ROUNDS: usize = 40;
/// The number of cycles in a block.
const CYCLES: u32 = 25;

pub(crate) fn run(effort: Effort) -> Vec<Table> {
    Flavor::ALL.map(|flavor| on(flavor, effort)).into()
}

fn on(flavor: Flavor, effort: Effort) -> Table {
    let mut process = Process::dynamodb(flavor);
    let names = process.answer();
    let names: Vec<_> = names.split('\t').collect();
    let blocks = turns::take(names.len(), effort.rounds(ROUNDS), |next| {
        process.tell(&format!("cycles {next} {CYCLES}"));
        let mut numbers = process.numbers().into_iter().map(|nanos| nanos / 1e3);
        let processor = numbers.next().expect("the processor time") / f64::from(CYCLES);
        Block { figures: numbers.collect(), processor }
    });
    let columns = [&turns::COLUMNS[..], &["requests", "client's processor, µs"]].concat();
    let mut table = Table::new(format!("DynamoDB cycle, {}", flavor.name()), &columns);
    for (next, name) in names.iter().enumerate() {
        let sent: f64 = process.ask(&format!("requests {next} {CYCLES}")).parse().expect("a number");
        let rest = [format!("{:.2}", sent / f64::from(CYCLES)), turns::processor(&blocks[next])];
        table.row(*name, turns::figures(&blocks[next], &blocks[0]).into_iter().chain(rest));
    }
    table
}
