//! Tests across processes, machines and crates.

mod counter;
mod forks;
mod models;
mod nfs;
mod simulation;
mod verification;
