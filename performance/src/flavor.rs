//! The runtimes of programs that use locks.

use tokio::runtime::{Builder, Runtime};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    CurrentThread,
    TwoWorkers,
}

impl Flavor {
    pub(crate) const ALL: [Self; 2] = [Self::CurrentThread, Self::TwoWorkers];

    /// The name for a reader, and for a process on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CurrentThread => "current-thread runtime",
            Self::TwoWorkers => "two workers",
        }
    }

    /// What tables of a part that is usually measured on a current-thread runtime add to their
    /// titles.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::CurrentThread => "",
            Self::TwoWorkers => ", two workers",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|flavor| flavor.name() == name).expect("the name of a runtime")
    }

    pub(crate) fn runtime(self) -> Runtime {
        let mut builder = match self {
            Self::CurrentThread => Builder::new_current_thread(),
            Self::TwoWorkers => Builder::new_multi_thread(),
        };
        if self == Self::TwoWorkers {
            builder.worker_threads(2);
        }
        builder.enable_all().build().expect("a runtime")
    }
}
