//! Tests on real servers that speak the protocols of object stores.

mod conformance;
mod doctor;
mod fake_gcs;
mod fixture;
mod forks;
mod gcs;
mod gcs_server;
mod hostile;
mod lost_replies;
mod requests;
mod simulation;
mod terraform;
mod tflock;
