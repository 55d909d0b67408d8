#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use lock_core::*;

#[cfg(feature = "efs")]
#[cfg_attr(docsrs, doc(cfg(feature = "efs")))]
pub use lock_efs as efs;
