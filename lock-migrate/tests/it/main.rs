//! Two stores as one, from outside.

mod forwarding;
mod halves;
mod migration;
mod modes;
