//! Fuzzes lock names, in the encoding of each store.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_efs::fuzzing::name(data);
    lock_redis::fuzzing::name(data);
    lock_object::fuzzing::name(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
