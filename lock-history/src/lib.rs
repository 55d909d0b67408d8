#![doc = include_str!("../README.md")]

mod belief;
mod check;
mod event;
mod liveness;
mod report;

pub use check::{Rules, check};
pub use event::{Event, What};
pub use report::{Report, Rule, Violation};
