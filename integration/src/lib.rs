//! What the tests across processes and the benchmarks share.
