//! Tests of the backend on real servers, one module per topic.

mod conformance;
mod contention;
mod durability;
mod faults;
mod fixture;
mod forks;
mod hostile;
mod login;
mod lost_replies;
mod rows;
mod shedlock;
