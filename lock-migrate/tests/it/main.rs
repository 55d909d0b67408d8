//! Two stores as one, from outside.

mod forwarding;
mod migration;
mod modes;
