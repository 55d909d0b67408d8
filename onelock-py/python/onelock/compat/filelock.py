"""The interface of the package ``filelock``, on the very files that it locks.

Programs that use ``filelock`` and programs that use this module exclude each other. A waiter wakes
up at once instead of polling, the message names the holder, and a lock that NFS lost is noticed.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from .. import _engine
from .._errors import ConfigError, LockHeld, UnsupportedError
from .._guard import Guard
from .._locker import Locker
from .._types import Held, Holder

__all__ = ["AcquireReturnProxy", "BaseFileLock", "FileLock", "Timeout"]

# Guards the counters of all file locks, and is never kept during a request. One that a thread of the
# parent had at a fork would stay locked in the child. A signal handler may release a lock meanwhile.
_counting = threading.RLock()


def _after_fork_in_child() -> None:
    global _counting
    _counting = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Timeout(LockHeld):
    """The lock is held by another client, and the time to wait for it is over."""

    lock_file: str

    def __init__(self, lock_file: str, holder: Holder) -> None:
        super().__init__(lock_file, holder)
        self.lock_file = lock_file


class AcquireReturnProxy:
    """What ``acquire`` returns: releases the lock at the end of a ``with`` block."""

    def __init__(self, lock: FileLock) -> None:
        self.lock = lock

    def __enter__(self) -> FileLock:
        return self.lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.release()


class _Holding:
    """One acquisition from the store, and how many releases it still needs."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.counter = 0
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has acquired it."""
        return threading.current_thread() in self._threads

    @property
    def is_ours(self) -> bool:
        """Whether this process has acquired it, and not its parent."""
        return self.guard._native.is_ours

    def count(self) -> None:
        self._threads.add(threading.current_thread())
        self.counter += 1


class FileLock:
    """Locks the file ``lock_file``, as ``filelock.FileLock`` does. Reentrant for one object.

    Only the thread that holds the lock may acquire it again; other threads wait for it. With
    ``thread_local=False``, any thread may acquire it again. In both cases any thread may release it.
    After a loss, acquiring it again raises ``LockLost`` until it is released. That release leaves
    the lock of another thread held, which acquired it since the loss. A child made by
    ``fork`` holds nothing of its parent, and waits for the lock like any other process.
    ``poll_interval`` has no effect: a release wakes the waiters. ``lifetime`` is refused, and so is
    ``is_singleton``. There is no fallback to files whose existence is the lock.
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = True,
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
    ) -> None:
        if lifetime is not None:
            raise UnsupportedError(
                "lifetime would free a lock that is still held; use a store with a ttl, such as redis:",
                kind="unsupported",
            )
        if is_singleton:
            raise UnsupportedError("is_singleton is not supported; share one FileLock object", kind="unsupported")
        path = Path(os.fspath(lock_file))
        if path.name in ("", ".", ".."):
            raise ConfigError(f"{str(path)!r} is no name of a lock file", kind="config")
        self._lock_file = str(path)
        self._name = path.name
        self.timeout = timeout
        self.blocking = blocking
        self.mode = mode
        self.poll_interval = poll_interval
        self._thread_local = thread_local
        self._held: _Holding | None = None
        self._lost: list[_Holding] = []
        """The acquisitions that were lost, and that their threads have not released yet, although
        another thread has acquired the lock since."""
        directory = quote(str(path.parent.absolute()))
        options = {} if mode == -1 else {"mode": f"{mode:o}"}
        self._locker = Locker(f"file://{directory}", names="plain", **options)

    @property
    def lock_file(self) -> str:
        """The path of the lock file."""
        return self._lock_file

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock."""
        guard = self.guard
        return guard is not None and guard.lost is None

    @property
    def lock_counter(self) -> int:
        """How often this object was acquired without a release."""
        with _counting:
            self._forget_the_parents()
            return 0 if self._held is None else self._held.counter

    @property
    def guard(self) -> Guard | None:
        """The guard of onelock while the lock is held: its token, its loss, its ``check``."""
        held = self._held
        return None if held is None else held.guard

    def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        **ignored: Any,
    ) -> AcquireReturnProxy:
        """Acquires the lock. Raises ``Timeout`` if it is held for longer than ``timeout`` seconds;
        a negative one waits for as long as it takes. Raises ``LockLost`` if it was acquired before,
        and lost since, or if it is lost at once, such as by a process that was frozen."""
        limit = self.timeout if timeout is None else timeout
        may_block = self.blocking if blocking is None else blocking
        if self._acquire_again():
            return AcquireReturnProxy(self)
        wait = 0.0 if not may_block else (None if limit < 0 else limit)
        guard = self._locker._attempt(self._name, wait, None, {})
        if isinstance(guard, Held):
            raise Timeout(self._lock_file, guard.holder)
        guard.check()
        holding = _Holding(guard)
        with _counting:
            if self._held is not None:
                # A release resets the state first, so that one was lost.
                self._lost.append(self._held)
            self._held = holding
            holding.count()
        return AcquireReturnProxy(self)

    def _acquire_again(self) -> bool:
        """Counts a further acquisition if this object holds the lock for the calling thread."""
        with _counting:
            self._forget_the_parents()
            held = self._mine()
            if held is None or (self._thread_local and not held.is_mine):
                return False
            # A nested block must not run without the lock either.
            held.guard.check()
            held.count()
            return True

    def _mine(self) -> _Holding | None:
        """Returns what a release by the calling thread releases: what it lost comes first."""
        return next((lost for lost in self._lost if lost.is_mine), self._held)

    def _forget_the_parents(self) -> None:
        if self._held is not None and not self._held.is_ours:
            self._held = None
        self._lost = [lost for lost in self._lost if lost.is_ours]

    def release(self, force: bool = False) -> None:
        """Releases the lock, if it was acquired once, or if ``force`` is set."""
        with _counting:
            held = self._mine()
            if held is None:
                return
            held.counter = 0 if force else held.counter - 1
            if held.counter > 0:
                return
            if held is self._held:
                self._held = None
            else:
                self._lost.remove(held)
        held.guard.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<FileLock {self._lock_file!r}, held {self.lock_counter} times>"

    def __del__(self) -> None:
        # filelock releases a forgotten lock without a word.
        held = getattr(self, "_held", None)
        if held is not None and _engine is not None:
            held.guard._is_released = True
            held.guard._native.abandon()


BaseFileLock = FileLock
"""For annotations and ``isinstance``."""
