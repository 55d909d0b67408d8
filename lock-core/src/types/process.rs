//! The process to which a value belongs.

/// The process in which this value was made. A child made by `fork` inherits the value, but is
/// another process.
///
/// A lock belongs to its process. A backend whose locks end with the process compares it before it
/// frees a lock, because a child shares the open files of its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// Returns this process.
    pub fn current() -> Self {
        Self(std::process::id())
    }

    /// Returns `true` in the process in which the value was made. One system call.
    pub fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Returns the process id.
    pub fn id(self) -> u32 {
        self.0
    }
}
