"""Forks, signals, and the end of Python."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onelock
import pytest


def in_child(work: str, url: str, *, rc: int = 0) -> str:
    """Runs `work` in a forked child, between a parent that holds the lock `x`."""
    script = f"""
import os, sys, onelock
locker = onelock.Locker({url!r})
guard = locker.acquire("x")
child = os.fork()
if child == 0:
    try:
{chr(10).join("        " + line for line in work.strip().splitlines())}
        sys.stdout.flush()
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        os._exit(9)
    os._exit(0)
status = os.waitpid(child, 0)[1]
guard.check()
assert not onelock.Locker({url!r}).try_acquire("x"), "the child freed the lock of its parent"
assert guard.release() is True
sys.exit(os.waitstatus_to_exitcode(status))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50, text=True)
    assert ended.returncode == rc, ended
    return ended.stdout


def test_a_child_holds_nothing_of_its_parent(shared_url: str) -> None:
    work = """
try:
    guard.check()
except onelock.OnelockError as error:
    assert str(os.getppid()) in str(error) and not isinstance(error, onelock.LockLost), error
assert guard.release() is False
del guard
import gc; gc.collect()
assert not locker.try_acquire("x")
with locker.lock("y") as own:
    own.check()
print("done")
"""
    assert in_child(work, shared_url) == "done\n"


def test_a_child_that_leaves_the_block_by_an_exception_frees_nothing(shared_url: str) -> None:
    script = f"""
import os, sys, onelock
locker = onelock.Locker({shared_url!r})
with locker.lock("x") as guard:
    child = os.fork()
    if child == 0:
        # Leaves through the `with`, and through the exit of Python.
        raise SystemExit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    guard.check()
    assert not onelock.Locker({shared_url!r}).try_acquire("x")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50, text=True)
    assert (ended.returncode, ended.stderr) == (0, ""), ended


USES_THE_LOCK_OF_ITS_PARENT = """
import os, sys, onelock
from onelock.compat.filelock import FileLock

store = sys.argv[1]
lock = FileLock(store, timeout=0) if store.startswith("/") else onelock.Locker(store).lock("x", wait=0)
other = FileLock(sys.argv[2])
answers, answer = os.pipe()
ends, end = os.pipe()
with lock, other:
    if os.fork() == 0:
        # Otherwise the child would outlive a parent that fails.
        os.close(end)
        try:
            with lock:
                os.write(answer, b"entered")
        except onelock.LockHeld:
            os.write(answer, b"refused")
        assert not other.is_locked and other.lock_counter == 0
        os.read(ends, 1)
        with lock:
            pass
        os._exit(0)
    print(os.read(answers, 9).decode())
os.write(end, b"!")
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
with lock:
    pass
"""


def uses_the_lock_of_its_parent(store: str, other: Path) -> None:
    script = [sys.executable, "-c", USES_THE_LOCK_OF_ITS_PARENT, store, str(other)]
    ended = subprocess.run(script, capture_output=True, timeout=50, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "refused\n", ""), ended


def test_a_lock_object_excludes_a_child_from_its_parent(shared_url: str, tmp_path: Path) -> None:
    uses_the_lock_of_its_parent(shared_url, tmp_path / "other.lock")


def test_a_file_lock_excludes_a_child_from_its_parent(tmp_path: Path) -> None:
    uses_the_lock_of_its_parent(str(tmp_path / "x.lock"), tmp_path / "other.lock")


def test_a_memory_store_is_refused_in_a_child() -> None:
    script = """
import os, onelock
locker = onelock.Locker("memory:")
if os.fork() == 0:
    try:
        locker.try_acquire("x")
    except onelock.UnsupportedError as error:
        os._exit(0 if "exclude no other process" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


def test_a_killed_parent_frees_its_lock_although_a_child_lives(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/locks"
    script = f"""
import os, sys, time, onelock
guard = onelock.Locker({url!r}).acquire("x")
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(100)
    os._exit(0)
time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        assert onelock.Locker(url).acquire("x", wait=20).release()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def add_one(url: str, counter: str) -> int:
    with onelock.Locker(url).lock("counter"):
        number = int(Path(counter).read_text())
        time.sleep(0.001)
        Path(counter).write_text(str(number + 1))
    return number


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool_exclude_each_other(method: str, shared_url: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    # The parent uses the store too, before it forks.
    add_one(shared_url, str(counter))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        seen = list(pool.map(add_one, [shared_url] * 16, [str(counter)] * 16))
    assert sorted(seen) == list(range(1, 17)) and counter.read_text() == "17"


WAITS = """
import signal, sys, time
import onelock

locker = onelock.Locker(sys.argv[1])
class Stop(Exception): pass
def handler(*_): raise Stop
signal.signal(signal.SIGALRM, handler)
import random
random.seed(int(sys.argv[2]))
held = other = None
for number in range(int(sys.argv[3])):
    holder = locker.acquire("x") if number % 2 else None
    signal.setitimer(signal.ITIMER_REAL, random.random() * 0.02 + 1e-4)
    try:
        with locker.lock("x", wait=0.03):
            pass
    except (Stop, onelock.LockHeld):
        pass
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        pass
    if holder is not None:
        assert holder.release()
    # Free at once, or as soon as the release in the background has ended.
    onelock.Locker(sys.argv[1]).acquire("x", wait=20).release()
print("done")
"""


@pytest.mark.parametrize("store", ["memory", "files", "redis"])
def test_signal_handlers_that_raise_leak_nothing(store: str, tmp_path: Path) -> None:
    from conftest import store_url

    ended = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", WAITS, store_url(store, tmp_path), "1", "200"],
        capture_output=True,
        timeout=110,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait(number: signal.Signals, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/locks"
    script = f"""
import signal, sys, onelock
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
print("waits", flush=True)
onelock.Locker({url!r}).acquire("x")
"""
    with onelock.Locker(url).lock("x"):
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "waits\n"
        child.send_signal(number)
        _, error = child.communicate(timeout=30)
    assert child.returncode == (4 if number == signal.SIGTERM else -signal.SIGINT), error
    assert "KeyboardInterrupt" in error or number == signal.SIGTERM


COMES_FIRST_TWICE = """
import contextlib, threading
from onelock import _engine

both = threading.Barrier(2)

class Slow(_engine._Process):
    def __init__(self):
        super().__init__()
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(5)

_engine._Process = Slow
seen = []
threads = [threading.Thread(target=lambda: seen.append(_engine.process())) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert seen[0] is seen[1], "the guards of the one are not released at exit"
"""


def test_two_first_calls_at_once_share_one_state() -> None:
    subprocess.run([sys.executable, "-c", COMES_FIRST_TWICE], check=True, timeout=50)


def test_nothing_starts_before_the_first_operation(tmp_path: Path) -> None:
    script = f"""
import os, onelock
before = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
locker = onelock.Locker("file://{tmp_path}/locks")
lock = locker.lock("x")
@locker.locked()
def work(): pass
after = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
assert before == after, (before, after)
assert not os.path.exists("{tmp_path}/locks")
work()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


def test_green_threads_are_refused_with_the_remedy() -> None:
    script = """
import sys, types
monkey = types.ModuleType("gevent.monkey")
monkey.is_module_patched = lambda name: name == "threading"
sys.modules["gevent.monkey"] = monkey
import onelock, os
locker = onelock.Locker("memory:")
try:
    locker.acquire("x")
    sys.exit(8)
except onelock.UnsupportedError as error:
    assert "gevent" in str(error) and "wait=0" in str(error)
locker.acquire("x", wait=0).release()
os.environ["ONELOCK_ALLOW_GEVENT"] = "1"
locker.acquire("x").release()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)
