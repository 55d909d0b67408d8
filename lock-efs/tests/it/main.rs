//! Tests of file locks on real directories, with real processes and programs.

mod acquire_renew_release;
mod conformance;
mod doctor;
mod errors;
mod fixture;
mod interop;
mod limits;
mod processes;
mod records;
mod sweep;
mod sweep_contended;
#[cfg(target_os = "linux")]
mod watch;
