//! Tests of the core's public interface, mostly over the memory store on a paused clock.

mod acquiring;
mod api;
mod blocking;
mod callbacks;
mod clocks;
mod config_parts;
mod conformance_memory;
mod dropping;
mod ended;
mod fixture;
mod leader;
mod loss_signal;
mod manual_renewal;
mod margin;
mod metrics;
mod paused_clock;
mod registry;
mod runtimes;
mod secrets;
mod store_lease;
mod suite_catches_bugs;
mod timeouts;
mod too_late;
mod try_run;
mod validity;
mod waiting;
