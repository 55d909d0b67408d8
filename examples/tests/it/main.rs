//! Each example against the real thing, as processes that are frozen, killed and told to end.

mod choose_backend;
mod etl_guard;
mod fencing;
mod fencing_s3;
mod fixture;
mod lambda_singleton;
mod leader;
