"""A loss is told: by check, callback, the end of the block, cancellation, and the end of the process."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onelock
import pytest
from onelock.pytest_plugin import MemoryLocker


def test_check_each_and_sleep_stop_at_the_loss(onelock_memory: MemoryLocker) -> None:
    guard = onelock_memory.acquire("x", ttl=3, renew=0.05)
    done = []
    with pytest.raises(onelock.LockLost) as error:
        for item in guard.each(range(10)):
            done.append(item)
            if item == 2:
                onelock_memory.lose("x")
                assert guard.wait_lost(30) is not None
    assert done == [0, 1, 2] and error.value.reason == "record_gone"
    with pytest.raises(onelock.LockLost):
        guard.sleep(3600)
    assert guard.stopping and guard.remaining() == 0 and guard.release() is False


def test_no_block_begins_after_the_loss_or_the_release(onelock_memory: MemoryLocker) -> None:
    lost, released = onelock_memory.acquire("x", ttl=3, renew=0.05), onelock_memory.acquire("y")
    onelock_memory.lose("x")
    assert lost.wait_lost(30) and released.release()
    ran = False
    for guard in (lost, released):
        with pytest.raises(onelock.LockLost), guard:
            ran = True
    assert not ran


def test_no_block_begins_if_the_lock_was_lost_meanwhile(
    onelock_memory: MemoryLocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def lose(guard: onelock.Guard | onelock.AsyncGuard) -> None:
        onelock_memory.lose("x")
        # The thread was frozen until here.
        while guard.lost is None:
            time.sleep(0.01)

    acquire, aio_acquire = onelock_memory.acquire, onelock_memory.aio.acquire

    def acquires(*args: Any, **options: Any) -> onelock.Guard:
        guard = acquire(*args, **options)
        lose(guard)
        return guard

    async def aio_acquires(*args: Any, **options: Any) -> onelock.AsyncGuard:
        guard = await aio_acquire(*args, **options)
        lose(guard)
        return guard

    async def enters(lock: onelock.Lock) -> None:
        async with lock:
            ran.append("async with")

    monkeypatch.setattr(onelock_memory, "acquire", acquires)
    monkeypatch.setattr(onelock_memory.aio, "acquire", aio_acquires)
    lock = onelock_memory.lock("x", ttl=3, renew=0.05, cancel_on_loss=False)
    with pytest.raises(onelock.LockLost), lock:
        ran.append("with")
    with pytest.raises(onelock.LockLost):
        asyncio.run(enters(lock))
    with pytest.raises(onelock.LockLost):
        onelock_memory.locked("x", ttl=3, renew=0.05)(lambda: ran.append("decorator"))()
    assert ran == []


def test_a_callback_is_called_once_with_the_loss(onelock_memory: MemoryLocker) -> None:
    guard = onelock_memory.acquire("x", ttl=3, renew=0.05)
    called = threading.Event()
    losses: list[tuple[str, str]] = []

    def note(lost: onelock.Lost) -> None:
        losses.append((lost.reason, threading.current_thread().name))
        called.set()

    guard.on_lost(note)
    onelock_memory.lose("x")
    assert called.wait(30) and losses == [("record_gone", "onelock-events")]
    late: list[str] = []
    guard.on_lost(lambda lost: late.append(lost.reason))
    assert late == ["record_gone"], "a callback that comes late is called too"
    released = onelock_memory.acquire("y")
    released.on_lost(note)
    released.release()
    released.on_lost(note)
    assert len(losses) == 1, "a release is no loss"


def test_the_end_of_the_block_tells_of_the_loss(onelock_memory: MemoryLocker, caplog: pytest.LogCaptureFixture) -> None:
    def lose(guard: onelock.Guard) -> None:
        onelock_memory.lose("x")
        assert guard.wait_lost(30)

    with pytest.raises(onelock.LockLost), onelock_memory.lock("x", ttl=3, renew=0.05) as guard:
        lose(guard)
    with pytest.raises(KeyError) as error, onelock_memory.lock("x", ttl=3, renew=0.05) as guard:
        lose(guard)
        raise KeyError("the body's own error wins")
    assert any("was lost" in note for note in error.value.__notes__)
    with caplog.at_level(logging.WARNING, "onelock"):
        with onelock_memory.lock("x", ttl=3, renew=0.05, lost_at_exit="log") as guard:
            lose(guard)
    assert "noticed at the end of the block" in caplog.text
    # The store lost the record, and no renewal has noticed.
    with pytest.raises(onelock.LockLost, match="at its release"), onelock_memory.lock("x", renew="manual"):
        onelock_memory.lose("x")


def test_a_release_that_fails_after_the_work_is_logged(
    onelock_memory: MemoryLocker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "onelock"), onelock_memory.lock("x"):
        onelock_memory.fail_next("release", "permission_denied")
    assert "release" in caplog.text
    guard = onelock_memory.try_acquire("y")
    assert isinstance(guard, onelock.Guard)
    onelock_memory.fail_next("release", "permission_denied")
    with pytest.raises(onelock.StorePermission):
        guard.release()


def test_a_lost_reply_is_no_foreign_holder(onelock_memory: MemoryLocker) -> None:
    onelock_memory.never_reply_next("acquire")
    with onelock_memory.lock("x", ttl=2, wait=20):
        assert onelock_memory.requests("acquire") == 2


def plain(locker: MemoryLocker) -> object:
    return locker.acquire("x")


def with_a_callback_that_refers_to_it(locker: MemoryLocker) -> object:
    def note(guard: onelock.Guard, lost: onelock.Lost) -> None:
        raise AssertionError((guard, lost))

    guard = locker.acquire("x")
    guard.on_lost(functools.partial(note, guard))
    return guard


class Worker(threading.Thread):
    """Keeps its guard, which another thread may forget with it."""

    def __init__(self, locker: MemoryLocker) -> None:
        super().__init__(daemon=True)
        self.locker = locker
        self.start()
        self.join()

    def run(self) -> None:
        self.guard = self.locker.acquire("x")


@pytest.mark.parametrize("make", [plain, with_a_callback_that_refers_to_it, Worker])
def test_a_forgotten_guard_warns_and_releases(
    make: Callable[[MemoryLocker], object], onelock_memory: MemoryLocker
) -> None:
    forgotten: object = make(onelock_memory)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        forgotten = None
        gc.collect()
    assert forgotten is None
    assert [str(one.message) for one in seen] == [
        'the lock "x" was not released; it is released now, in the background'
    ]
    assert onelock_memory.acquire("x", wait=20).release()


ENDS_WITHOUT_PYTHON = """
import ctypes, sys
import onelock
from onelock.pytest_plugin import MemoryLocker
from onelock._onelock import TestStore

locker = MemoryLocker(TestStore())
with locker.lock("x", ttl=2, renew=0.05, on_loss=sys.argv[1], grace=1) as guard:
    locker.lose("x")
    # Keeps the lock of the interpreter, so no Python runs any more.
    ctypes.PyDLL(None).sleep(60)
print("outlived the lock")
"""


@pytest.mark.parametrize("on_loss", ["exit", "term"])
def test_on_loss_ends_a_process_that_is_stuck_in_c(on_loss: str) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS_WITHOUT_PYTHON, on_loss], capture_output=True, timeout=50)
    assert ended.returncode in ((75,) if on_loss == "exit" else (75, -signal.SIGTERM)), ended
    assert ended.stdout == b""


STOPS_IN_TIME = """
import signal, sys, time
import onelock
from onelock.pytest_plugin import MemoryLocker
from onelock._onelock import TestStore

locker = MemoryLocker(TestStore())
def stop(*_):
    print("asked to stop", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
with locker.lock("x", ttl=3, renew="manual", grace=1.5, on_loss="term") as guard:
    while True:
        time.sleep(0.01)
"""


def test_term_asks_before_the_lock_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", STOPS_IN_TIME], capture_output=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (3, b"asked to stop\n"), ended


KEEPS_THE_INTERPRETER = """
import ctypes
import onelock
locker = onelock.Locker("memory:", ttl=3)
with locker.lock("x") as guard:
    # Longer than the ttl.
    ctypes.PyDLL(None).sleep(5)
    guard.check()
print("held")
"""


def test_renewals_need_no_interpreter() -> None:
    ended = subprocess.run([sys.executable, "-c", KEEPS_THE_INTERPRETER], capture_output=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (0, b"held\n"), ended


FROZEN = """
import onelock, sys
guard = onelock.Locker(sys.argv[1]).acquire("x", ttl=1)
print("held", flush=True)
sys.stdin.readline()
try:
    guard.check()
except onelock.LockLost as lost:
    print(lost.reason)
"""


def test_a_frozen_process_notices_before_it_acts(redis_url: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", FROZEN, redis_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "held\n"
    os.kill(child.pid, signal.SIGSTOP)
    # Granted only once the lease of the frozen process has ended.
    guard = onelock.Locker(redis_url).acquire("x", wait=30)
    assert guard.crashed_holder is not None
    child.stdin.write("\n")
    child.stdin.flush()
    os.kill(child.pid, signal.SIGCONT)
    output, _ = child.communicate(timeout=30)
    assert output.strip() in ("frozen", "taken", "expired", "unreachable", "clock_jumped")
    assert guard.release()


def test_log_records_reach_logging(tmp_path: Path) -> None:
    script = """
import logging, sys, onelock
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
onelock.enable_logging("debug")
import threading, time
seen = threading.Event()
class Seen(logging.Handler):
    def emit(self, record):
        if "release finished" in record.getMessage(): seen.set()
logging.getLogger("onelock").addHandler(Seen())
with onelock.Locker("memory:").lock("x"): pass
assert seen.wait(30)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50, text=True)
    assert ended.returncode == 0, ended
    assert "onelock.lock_core DEBUG release finished name=x" in ended.stdout
