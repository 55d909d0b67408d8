//! The value of a lock's key in Redis, and what the scripts answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_redis::fuzzing::value(data);
});
