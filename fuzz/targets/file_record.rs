//! Fuzzes the sidecar record of a lock file.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_efs::fuzzing::record(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
