//! Two stores as one, from outside.

mod fixture;
mod forwarding;
mod halves;
mod migration;
mod modes;
