//! How long the measurements take.

use std::time::Duration;

/// All rounds for the page, or few to try the program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
}

impl Effort {
    pub(crate) fn rounds(self, all: usize) -> usize {
        if self.quick { all.div_ceil(20) } else { all }
    }

    pub(crate) fn window(self, all: Duration) -> Duration {
        if self.quick { all / 5 } else { all }
    }
}
