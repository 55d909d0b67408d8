"""The interface of the package ``filelock``, on the very files that it locks.

Programs that use ``filelock`` and programs that use this module exclude each other. A waiter wakes
up at once instead of polling, the message names the holder, and a lock that NFS lost is noticed.
"""

from __future__ import annotations

import os
import threading
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


class FileLock:
    """Locks the file ``lock_file``, as ``filelock.FileLock`` does. Reentrant for one object.

    Only the thread that holds the lock may acquire it again; other threads wait for it. With
    ``thread_local=False``, any thread may acquire it again. In both cases any thread may release it.
    After a loss, to acquire it again raises ``LockLost`` until it is released. A child made by
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
        self._guard: Guard | None = None
        self._counter = 0
        self._owner = 0
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
        guard = self._guard
        return guard is not None and guard.lost is None

    @property
    def lock_counter(self) -> int:
        """How often this object was acquired without a release."""
        with _counting:
            self._forget_the_parents()
            return self._counter

    @property
    def guard(self) -> Guard | None:
        """The guard of onelock while the lock is held: its token, its loss, its ``check``."""
        return self._guard

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
        and lost since."""
        limit = self.timeout if timeout is None else timeout
        may_block = self.blocking if blocking is None else blocking
        if self._acquire_again():
            return AcquireReturnProxy(self)
        wait = 0.0 if not may_block else (None if limit < 0 else limit)
        guard = self._locker._attempt(self._name, wait, None, {})
        if isinstance(guard, Held):
            raise Timeout(self._lock_file, guard.holder)
        with _counting:
            # The thread that held it has reset the state before its release.
            self._guard, self._owner, self._counter = guard, threading.get_ident(), 1
        return AcquireReturnProxy(self)

    def _acquire_again(self) -> bool:
        """Counts a further acquisition if this object holds the lock for the calling thread."""
        with _counting:
            self._forget_the_parents()
            if self._guard is None or (self._thread_local and self._owner != threading.get_ident()):
                return False
            # A nested block must not run without the lock either.
            self._guard.check()
            self._counter += 1
            return True

    def _forget_the_parents(self) -> None:
        if self._guard is not None and not self._guard._native.is_ours:
            self._guard, self._counter = None, 0

    def release(self, force: bool = False) -> None:
        """Releases the lock, if it was acquired once, or if ``force`` is set."""
        with _counting:
            if self._guard is None:
                return
            self._counter = 0 if force else self._counter - 1
            if self._counter > 0:
                return
            guard, self._guard = self._guard, None
        guard.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<FileLock {self._lock_file!r}, held {self._counter} times>"

    def __del__(self) -> None:
        # filelock releases a forgotten lock without a word.
        guard = getattr(self, "_guard", None)
        if guard is not None and _engine is not None:
            guard._is_released = True
            guard._native.abandon()


BaseFileLock = FileLock
"""For annotations and ``isinstance``."""
