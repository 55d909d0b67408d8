//! Tests of the backend on real servers, one module per topic.

mod conformance;
mod contention;
mod durability;
mod ended;
mod faults;
mod fixture;
mod forks;
mod hostile;
mod joined;
mod login;
mod lost_parts;
mod lost_replies;
mod named;
mod rows;
mod shedlock;
mod shedlock_replies;
mod sweep;
