//! Writes `docs/verification.md`: the promises, the tests that check them, and the results.
//!
//! The text of the page is in `page.md.in`. Its `{cases KEY}` is replaced by the tests that carry
//! the key, in a comment directly above the function:
//!
//! ```text
//! // verifies: P1, contention
//! async fn exactly_one_of_many_contenders_acquires() {
//! ```
//!
//! A key is a promise, a kind of failure, or another row of the page. A key without a test is an
//! error, and so is a test with a key that is not on the page.

mod cases;
mod junit;
mod page;
mod torture;

pub use cases::Cases;
pub use junit::Runs;
pub use page::{HISTORIES, LEAST_SIMULATED, LEAST_TORTURED, Page, TEMPLATE, all_brought_back, read};
pub use torture::{Round, torture};
