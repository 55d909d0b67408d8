//! Tests of `onelock hold`, and of the clients in `examples/any_language`.

#[cfg(all(feature = "redis", feature = "dynamo"))]
mod clients;
mod family;
mod fixture;
mod late;
#[cfg(all(feature = "redis", feature = "dynamo", feature = "postgres"))]
mod parts;
mod protocol;
mod sessions;
mod shell;
