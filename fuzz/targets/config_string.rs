//! Fuzzes config strings: the parser, and the options of the stores.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_core::fuzzing::config_string(data);
    lock_redis::fuzzing::config_string(data);
    lock_dynamo::fuzzing::config_string(data);
    lock_object::fuzzing::config_string(data);
    lock_postgres::fuzzing::config_string(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
