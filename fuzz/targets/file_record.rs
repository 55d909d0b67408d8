//! The sidecar record of a lock file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_efs::fuzzing::record(data);
});
