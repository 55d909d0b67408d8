//! What is promised, where it is checked, and what came out: the contents of `docs/verification.md`.

mod junit;
mod page;
mod promises;
mod torture;

pub use junit::Runs;
pub use page::{Page, read};
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
    let all: std::collections::BTreeSet<_> = PROMISES.iter().flat_map(|promise| promise.cases).copied().collect();
    all.into_iter()
}
