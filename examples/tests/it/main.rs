//! Runs each example against a real store, as processes that are frozen, killed and terminated.

mod choose_backend;
mod etl_guard;
mod fencing;
mod fencing_s3;
mod fixture;
mod lambda_singleton;
mod leader;
mod one_transaction;
mod state_file;
