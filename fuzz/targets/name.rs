//! Names, as each store spells them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_efs::fuzzing::name(data);
    lock_redis::fuzzing::name(data);
});
