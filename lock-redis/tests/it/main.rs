//! Tests of the backend on real servers, one module per topic.

mod access;
mod cluster;
mod compat;
mod doctor;
mod faults;
mod fixture;
mod forks;
mod hostile;
mod keys;
mod lost_replies;
mod quorum;
mod quorum_repair;
mod replicas;
mod sentinel;
mod standalone;
mod tls;
mod waiting;
