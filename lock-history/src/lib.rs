#![doc = include_str!("../README.md")]

mod check;
mod event;
mod liveness;
mod order;
mod report;
mod validity;

pub use check::{Checks, check};
pub use event::{Event, EventKind, Mode};
pub use order::places;
pub use report::{Property, Report, Violation, hand_overs};
