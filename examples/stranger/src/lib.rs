//! The examples of the READMEs and the pages, compiled with warnings as errors.

include!(concat!(env!("OUT_DIR"), "/readmes.rs"));
