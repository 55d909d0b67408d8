//! Items of a DynamoDB table, in every schema.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_dynamo::fuzzing::item(data);
});
