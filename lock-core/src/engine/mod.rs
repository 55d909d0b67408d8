//! The engine: waits for, renews and releases locks. Only [`Timing`] is public.

pub(crate) mod acquisition;
pub(crate) mod backoff;
pub(crate) mod freeze;
pub(crate) mod hand_over;
pub(crate) mod hold;
pub(crate) mod limits;
pub(crate) mod metrics;
pub(crate) mod outage;
pub(crate) mod queue;
pub(crate) mod relay;
pub(crate) mod renewer;
pub(crate) mod repeats;
pub(crate) mod shared;
pub(crate) mod stand_back;
pub(crate) mod timing;

pub use timing::Timing;
