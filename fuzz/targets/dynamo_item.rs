//! Fuzzes items of a DynamoDB table, in every schema.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_dynamo::fuzzing::item(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
