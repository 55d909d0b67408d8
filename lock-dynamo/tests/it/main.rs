//! Tests the backend on DynamoDB Local and in a simulation, one module a subject.

mod aws_environment;
mod aws_files;
mod conformance;
mod doctor;
mod endpoints;
mod fair;
mod faults;
mod fixture;
mod forks;
mod hostile;
mod init;
mod interop_items;
mod interop_python;
mod lost_parts;
mod many;
mod modes;
mod names;
mod odd_items;
mod operators;
mod proxies;
mod requests;
mod simulation;
mod strangers;
mod takeover;
