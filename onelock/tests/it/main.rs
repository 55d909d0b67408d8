//! Migrations between real stores.

#[cfg(all(feature = "dynamo", feature = "redis"))]
mod dynamo_to_redis;
#[cfg(all(feature = "files", feature = "dynamo"))]
mod files_to_dynamo;
#[cfg(feature = "files")]
mod files_to_files;
#[cfg(all(feature = "files", feature = "redis"))]
mod files_to_redis;
#[cfg(feature = "dynamo")]
mod table;
