//! The checker from outside.

mod checker;
