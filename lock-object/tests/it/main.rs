//! Tests on real servers that speak the protocols of object stores.

mod conformance;
mod fixture;
mod hostile;
mod lost_replies;
