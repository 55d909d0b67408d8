//! Tests of the backend on real servers, one module per topic.

mod access;
mod batches;
mod cluster;
mod compat;
mod doctor;
mod fair;
mod faults;
mod fixture;
mod forks;
mod hostile;
mod joined;
mod joined_wakes;
mod keys;
mod lost_parts;
mod lost_replies;
mod many;
mod quorum;
mod quorum_parts;
mod quorum_repair;
mod races;
mod relay;
mod replicas;
mod sentinel;
mod standalone;
mod tls;
mod waiting;
