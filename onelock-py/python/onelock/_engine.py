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
        # Other threads change both while Python exits. Of these collections, only a list of the
        # references is made in one step.
        self.ops: weakref.WeakKeyDictionary[Op, None] = weakref.WeakKeyDictionary()
        self.guards: weakref.WeakKeyDictionary[CoreGuard, weakref.ref[threading.Thread]] = weakref.WeakKeyDictionary()
        """Each guard, and the thread that acquired its lock."""
        self.on_lost: weakref.WeakValueDictionary[int, GuardBase] = weakref.WeakValueDictionary()
        """The guards that have a callback, by their keys."""
        self.starting = threading.RLock()
        self.reports = False
        self.exits = False

    def all_ops(self) -> list[Op]:
        """Returns the operations that may run now."""
        return [op for ref in self.ops.keyrefs() if (op := ref()) is not None]

    def all_guards(self) -> list[tuple[CoreGuard, threading.Thread | None]]:
        """Returns the guards, and the threads that acquired their locks."""
        guards = [guard for ref in self.guards.keyrefs() if (guard := ref()) is not None]
        return [(guard, self.guards[guard]()) for guard in guards]


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
    """Waits for an operation and returns its answer. Any exception cancels it."""
    op: Op | None = None
    try:
        op = start(begin)
        wait_for(op, None, on_news)
        return op.take()
    except BaseException:
        if op is not None:
            op.cancel()
        stop_at_exit()
        raise


def start(begin: Callable[[], Op]) -> Op:
    """Starts an operation, which the exit of Python cancels."""
    stop_at_exit()
    op = begin()
    process().ops[op] = None
    if process().exits:
        # The exit may have passed this operation by.
        _stop_daemon(op)
    return op


def stop_at_exit() -> None:
    """Stops a daemon thread once Python exits: it must start nothing more, and raise nothing."""
    if process().exits:
        _stop_daemon(None)


def _stop_daemon(op: Op | None) -> None:
    if threading.current_thread() is not threading.main_thread():
        if op is not None:
            op.cancel()
        # Python ends it soon.
        threading.Event().wait()


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


def note_guard(guard: CoreGuard) -> None:
    """Remembers a guard until it is collected, and reports its loss."""
    here = process()
    # A thread may keep the guard, and the guard must not keep the thread.
    here.guards[guard] = weakref.ref(threading.current_thread())
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
    here.exits = True
    try:
        for op in here.all_ops():
            op.cancel()
        releases = [guard.release() for guard, thread in here.all_guards() if _may_release(thread)]
        _onelock.wait_idle(EXIT_SECONDS)
        # Dropping a release would cancel it.
        del releases
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
