//! Tests of the backend on real servers, one module per topic.

mod conformance;
mod contention;
mod durability;
mod faults;
mod fixture;
mod lost_replies;
