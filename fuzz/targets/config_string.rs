//! Config strings, as the parser and the stores read them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_core::fuzzing::config_string(data);
    lock_redis::fuzzing::config_string(data);
    lock_dynamo::fuzzing::config_string(data);
});
