//! Tests of `onelock hold`, and of the clients in `examples/any_language`.

#[cfg(all(feature = "redis", feature = "dynamo"))]
mod clients;
mod family;
mod fixture;
mod late;
mod protocol;
mod sessions;
mod shell;
