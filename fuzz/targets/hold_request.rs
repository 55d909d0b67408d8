//! Fuzzes the requests to `onelock hold --json`.
#![cfg_attr(fuzzing, no_main)]
#![cfg_attr(not(fuzzing), allow(dead_code, reason = "the modules are only compiled"))]

#[path = "../../onelock-cli/src/hold/json/request.rs"]
mod request;
#[path = "../../onelock-cli/src/seconds.rs"]
mod seconds;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(line) = std::str::from_utf8(data) else { return };
    if let Err(refusal) = request::parse(line) {
        assert!(!refusal.message.is_empty());
    }
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
