//! What is promised, where it is checked, and what came out: the contents of `docs/verification.md`.

mod faults;
mod junit;
mod page;
mod promises;
mod torture;

use std::collections::BTreeSet;

pub use faults::{FAULTS, Fault};
pub use junit::Runs;
pub use page::{LEAST_SIMULATED, LEAST_TORTURED, Page, read};
pub use promises::{PROMISES, Promise};
pub use torture::torture;

/// The filter with which `cargo nextest run` runs every case that the page names.
pub fn filter() -> String {
    let names: Vec<_> = cases().collect();
    // A case of the kit may stand in a module of its backend.
    format!("test(/^(.*::)?({})$/)", names.join("|"))
}

/// All cases that the page names, each once.
pub fn cases() -> impl Iterator<Item = &'static str> {
    let promised = PROMISES.iter().flat_map(|promise| promise.cases);
    let all: BTreeSet<_> = promised.chain(FAULTS.iter().flat_map(|fault| fault.cases)).copied().collect();
    all.into_iter()
}
