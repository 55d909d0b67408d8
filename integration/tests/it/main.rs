//! Tests across processes, machines and crates.

mod costs;
mod counter;
mod forks;
mod models;
mod nfs;
mod simulation;
mod verification;
