//! The examples of the READMEs, compiled with warnings as errors.

include!(concat!(env!("OUT_DIR"), "/readmes.rs"));
