//! Tests across processes, machines and crates, in one binary.

mod counter;
mod models;
mod nfs;
mod simulation;
mod verification;
