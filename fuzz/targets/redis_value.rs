//! Fuzzes the value of a lock's key in Redis, and the answers of the scripts.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_redis::fuzzing::value(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
