//! Tests of the backend on real servers, one module per topic.

mod conformance;
mod fixture;
