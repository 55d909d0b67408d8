"""Runs operations: waits for them, reports events, and ends what is left when Python exits."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _onelock
from ._errors import UnsupportedError
from ._onelock import CoreGuard, Op
from ._types import Holder, Lost

if TYPE_CHECKING:
    from ._guard import GuardBase

log = logging.getLogger("onelock")

SLICE = 0.05
"""Signal handlers of Python run in the main thread only, and not while it waits."""

EXIT_SECONDS = 2.0
"""How long all releases at exit may take together."""


class _Process:
    """What this process has to end and to report. A child made by ``fork`` gets its own."""

    def __init__(self) -> None:
        self.ops: weakref.WeakSet[Op] = weakref.WeakSet()
        self.guards: weakref.WeakKeyDictionary[CoreGuard, weakref.ref[threading.Thread]] = weakref.WeakKeyDictionary()
        """Each guard, and the thread that acquired its lock."""
        self.idle: weakref.WeakSet[Any] = weakref.WeakSet()
        self.on_lost: weakref.WeakValueDictionary[int, GuardBase] = weakref.WeakValueDictionary()
        """The guards that have a callback, by their keys."""
        self.starting = threading.RLock()
        self.reports = False
        self.exits = False


# Made here and in the handler of `fork`, where there is one thread. Two threads that make the first
# calls at the same time would make two.
_process = _Process()


def _after_fork_in_child() -> None:
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_after_fork_in_child)


def process() -> _Process:
    """Returns the state of this process."""
    return _process


def run(begin: Callable[[], Op], on_news: Callable[[dict[str, Any]], None] | None = None) -> Any:
    """Waits for an operation and returns its answer. Whatever ends the wait cancels it."""
    here = process()
    if here.exits and threading.current_thread() is not threading.main_thread():
        # A daemon thread, which Python is about to stop. It must start nothing more.
        threading.Event().wait()
    op: Op | None = None
    try:
        op = begin()
        here.ops.add(op)
        wait_for(op, None, on_news)
        return op.take()
    except BaseException:
        if op is not None:
            op.cancel()
        raise


def wait_for(op: Op, timeout: float | None, on_news: Callable[[dict[str, Any]], None] | None = None) -> bool:
    """Waits for at most ``timeout`` seconds, and returns whether the operation has ended."""
    in_slices = threading.current_thread() is threading.main_thread()
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        if in_slices:
            left = SLICE if left is None else min(left, SLICE)
        if op.wait(left):
            return True
        news = op.contended()
        if news is not None and on_news is not None:
            on_news(news)
        if end is not None and time.monotonic() >= end:
            return op.ready


def refuse_green_threads(wait: float | None) -> None:
    """Refuses to wait where that would stop the hub of gevent or eventlet."""
    if wait == 0.0 or os.environ.get("ONELOCK_ALLOW_GEVENT") == "1":
        return
    hub = _patched_by()
    if hub is not None:
        raise UnsupportedError(
            f"a wait for a lock would stop the hub of {hub}, because threads are monkey-patched; pass wait=0 in a "
            f"loop with a sleep, or wait in the hub's thread pool and set ONELOCK_ALLOW_GEVENT=1",
            kind="unsupported",
        )


def _patched_by() -> str | None:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return "gevent"
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return "eventlet"
    return None


def note_guard(guard: CoreGuard, core: Any) -> None:
    """Remembers a guard until it is collected, and reports its loss."""
    here = process()
    # A thread may keep the guard, and the guard must not keep the thread.
    here.guards[guard] = weakref.ref(threading.current_thread())
    here.idle.add(core)
    report()


def report() -> None:
    """Starts the thread that reports losses and log records, once in each process."""
    here = process()
    if here.reports:
        return
    with here.starting:
        if not here.reports:
            threading.Thread(target=_report, name="onelock-events", daemon=True).start()
            here.reports = True


def _report() -> None:
    while True:
        event = _onelock.next_event()
        try:
            if event[0] == "record":
                _, level, logger, message, dropped = event
                if dropped:
                    log.warning("%d log records were dropped, because they came too fast", dropped)
                logging.getLogger(logger).log(level, "%s", message)
            else:
                _, key, fields = event
                _report_loss(key, Lost._of(fields))
        except Exception:
            # One callback must not end the reports of all others.
            log.exception("a callback for a lost lock failed")


def _report_loss(key: int, lost: Lost) -> None:
    """Reports one loss. While the thread waits for the next event, it keeps nothing of this one."""
    log.warning("%s", lost)
    guard = process().on_lost.get(key)
    if guard is not None:
        guard._tell(lost)


def _may_release(thread: threading.Thread | None) -> bool:
    """Returns whether the lock of a thread may be released at exit: daemon threads still run."""
    return thread is None or not thread.daemon or not thread.is_alive()


def _at_exit() -> None:
    """Cancels waiters, and releases what is held, for a bounded time."""
    here = process()
    end = time.monotonic() + EXIT_SECONDS
    here.exits = True
    try:
        for op in list(here.ops):
            op.cancel()
        releases = [guard.release() for guard, thread in list(here.guards.items()) if _may_release(thread())]
        releases += [core.wait_idle() for core in list(here.idle)]
        for release in releases:
            release.wait(max(0.0, end - time.monotonic()))
    finally:
        # From here on no native thread wakes a thread of Python, which would find no interpreter.
        _onelock.close()


# A handler that was registered before this module was imported runs later, without the locks.
atexit.register(_at_exit)


def on_news(name: str, on_waiting: Callable[[Holder], None] | None) -> Callable[[dict[str, Any]], None] | None:
    """Makes the function that tells ``on_waiting`` of the holders that an operation meets."""
    return None if on_waiting is None else lambda fields: on_waiting(holder(name, fields))


def holder(name: str, fields: dict[str, Any]) -> Holder:
    """Makes the holder of an answer."""
    return Holder._of(name, fields)
