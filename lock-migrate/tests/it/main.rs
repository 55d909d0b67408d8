//! Two stores as one, from outside.

mod migration;
