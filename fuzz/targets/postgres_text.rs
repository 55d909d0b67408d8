//! Fuzzes the texts that third parties write for PostgreSQL: modes, ShedLock's rows, passwords.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lock_postgres::fuzzing::text(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without instrumentation; use fuzz/run");
}
