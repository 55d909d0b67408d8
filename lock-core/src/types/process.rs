//! The process to which a value belongs.

/// The process in which this value was made. A child made by `fork` inherits the value, but is
/// another process.
///
/// A lock belongs to its process. A backend whose locks end with the process compares it before it
/// frees a lock, because a child shares the open files of its parent.
///
/// The process id does not tell a child from its parent: both may be the first process of a PID
/// namespace, and ids are reused. On Linux 4.14 and later, children are told by memory that the
/// kernel clears in each of them. Elsewhere they are told by their id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    id: u32,
    mark: u64,
}

impl Process {
    /// Returns this process.
    pub fn current() -> Self {
        Self { id: std::process::id(), mark: mark() }
    }

    /// Returns `true` in the process in which the value was made. It makes no system call where
    /// memory tells children from parents.
    pub fn is_current(self) -> bool {
        self.mark == mark()
    }

    /// Returns the process id.
    pub fn id(self) -> u32 {
        self.id
    }

    /// Returns a number that no process has in common with its children and their children.
    /// Unlike a `Process`, it fits into an atomic. Safe to call in a handler of `fork`.
    pub fn mark(self) -> u64 {
        self.mark
    }
}

fn mark() -> u64 {
    #[cfg(target_os = "linux")]
    if let Some(mark) = cleared::mark() {
        return mark;
    }
    std::process::id().into()
}

/// A number in memory that the kernel clears in children.
#[cfg(target_os = "linux")]
mod cleared {
    #![allow(unsafe_code, reason = "memory with a property that only system calls can give it")]

    use std::{
        ptr,
        sync::atomic::{AtomicPtr, AtomicU64, Ordering},
    };

    use nix::libc;

    /// The cleared memory, once it exists. A lock would stay locked in a child forked meanwhile.
    static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    /// Stands in `MARK` if the kernel cannot clear memory.
    static UNSUPPORTED: AtomicU64 = AtomicU64::new(0);
    /// The largest mark that this process or a process before it has chosen. Children inherit it,
    /// so their marks are larger.
    static LARGEST: AtomicU64 = AtomicU64::new(0);

    /// Returns the mark of this process. `None` if the kernel cannot clear memory in children.
    pub(super) fn mark() -> Option<u64> {
        let mut place = MARK.load(Ordering::Acquire);
        if place.is_null() {
            place = first();
        }
        // SAFETY: the pointer is of memory that is never unmapped, or of a static.
        let place = (!ptr::eq(place, &raw const UNSUPPORTED)).then(|| unsafe { &*place })?;
        match place.load(Ordering::Relaxed) {
            0 => Some(choose(place)),
            mark => Some(mark),
        }
    }

    /// Chooses the mark at its first use in a process. Threads that do so at once agree on one.
    #[cold]
    fn choose(place: &AtomicU64) -> u64 {
        let new = LARGEST.fetch_add(1, Ordering::Relaxed) + 1;
        place.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|chosen| chosen, |_| new)
    }

    #[cold]
    fn first() -> *mut AtomicU64 {
        let new = map().unwrap_or_else(|| (&raw const UNSUPPORTED).cast_mut());
        match MARK.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            // Another thread was faster. The page of this one stays unused.
            Err(first) => first,
        }
    }

    /// Maps one page of zeros that is cleared in children.
    fn map() -> Option<*mut AtomicU64> {
        const SIZE: usize = size_of::<AtomicU64>();
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: it maps new memory, which nothing else uses.
        let page = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // An emulator may accept any advice without following it.
        // SAFETY: advice of no meaning is refused, and the other concerns only the new memory.
        let cleared =
            unsafe { libc::madvise(page, SIZE, -1) != 0 && libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) == 0 };
        cleared.then(|| page.cast())
    }
}
