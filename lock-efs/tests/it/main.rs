//! Tests of file locks on real directories, with real processes and programs.

mod acquire_renew_release;
mod asking;
mod conformance;
mod doctor;
mod errors;
#[cfg(target_os = "linux")]
mod fair;
mod fixture;
mod forks;
mod hand_over;
mod hostile;
mod interop;
mod limits;
mod modes;
mod nfs;
mod owners;
mod processes;
mod records;
mod strangers;
mod sweep;
mod sweep_contended;
mod unrecorded;
#[cfg(target_os = "linux")]
mod watch;
