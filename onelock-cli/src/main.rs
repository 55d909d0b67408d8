//! The command `onelock`; see [`cli`].
//!
//! It has a C `main` of its own, because Rust's start-up code sets SIGPIPE to "ignore" before `main`, and the command that
//! we run must get the disposition that we were started with.
#![cfg_attr(not(test), no_main)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the onelock command supervises its child with Linux system calls (subreaper, signalfd, timerfd); \
     on other systems use the library, the crate `onelock`"
);

mod cli;
mod sys;

/// What the C library calls.
#[cfg(not(test))]
#[allow(unsafe_code, reason = "the C library finds main by its symbol")]
// SAFETY: there is one `main` in this program, and it has the C signature.
#[unsafe(no_mangle)]
extern "C" fn main(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
    // The only use of the pointers: they are exactly what the C library passed.
    cli::main(sys::arguments(argc, argv))
}
