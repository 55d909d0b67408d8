"""The end of Python: it leaves no lock, and says nothing."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import onelock
import pytest

EXITS = {
    "held": "guard = locker.acquire('x')",
    "held by a global in a with": "lock = locker.lock('x'); lock.__enter__()",
    "forgotten in a cycle": "guard = locker.acquire('x'); cycle = [guard]; cycle.append(cycle)",
    "an exception in the block": "locker.lock('x').__enter__(); raise SystemExit(0)",
    "waiters in daemon threads": """
guard = locker.acquire('x')
import threading
for _ in range(8):
    threading.Thread(target=lambda: locker.acquire('x'), daemon=True).start()
""",
    "a pending task of asyncio": """
import asyncio
guard = locker.acquire('x')
async def main():
    asyncio.ensure_future(locker.aio.acquire('x'))
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
    "a callback and log records": """
onelock.enable_logging('debug')
guard = locker.acquire('x')
guard.on_lost(print)
""",
    "an operation whose answer comes at the exit": """
import onelock._engine
op = onelock._engine.start(lambda: locker._core.acquire('x', None, {}))
""",
}


@pytest.mark.parametrize("what", EXITS)
def test_python_exits_without_a_word_and_leaves_no_lock(what: str, tmp_path: Path, redis_url: str) -> None:
    for number in range(12):
        url = redis_url if number % 2 else f"file://{tmp_path}/locks"
        script = f"import sys, onelock\nlocker = onelock.Locker(sys.argv[1])\n{EXITS[what]}"
        ended = subprocess.run([sys.executable, "-c", script, url], capture_output=True, timeout=50, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), ended
        # The ttl is 30 s, so a lock that was left would still be held.
        assert onelock.Locker(url).acquire("x", wait=15).release()


KEEPS_UNTIL_THE_END = """
import atexit, subprocess, sys, threading

TRIES = "import onelock, sys; print('held' if not onelock.Locker(sys.argv[1]).try_acquire(sys.argv[2]) else 'free')"
# Runs after the exit handler of the package, because it is registered before.
atexit.register(subprocess.run, [sys.executable, "-c", TRIES, *sys.argv[1:]])
import onelock

locker = onelock.Locker(sys.argv[1])
held = threading.Event()

def work():
    with locker.lock(sys.argv[2], ttl=10) as guard:
        held.set()
        while True:
            guard.sleep(0.001)

threading.Thread(target=work, daemon=True).start()
assert held.wait(30)
"""


def test_a_daemon_thread_keeps_its_lock_until_the_end(shared_url: str) -> None:
    for name in ["x", "y"]:
        script = [sys.executable, "-c", KEEPS_UNTIL_THE_END, shared_url, name]
        ended = subprocess.run(script, capture_output=True, timeout=50, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "held\n", ""), ended


NEVER_STOPS = {
    "sleeps under a lock": """
with locker.lock("x") as guard:
    ready.set()
    while True:
        guard.sleep(0.001)
""",
    "acquires and releases": """
while True:
    with locker.lock("x"):
        ready.set()
""",
    "runs an event loop": """
import asyncio
async def main():
    while True:
        async with locker.lock("x"):
            ready.set()
asyncio.run(main())
""",
}


@pytest.mark.parametrize("what", NEVER_STOPS)
def test_python_exits_without_a_word_while_a_daemon_thread_runs(what: str, tmp_path: Path) -> None:
    script = f"""
import onelock, threading
locker = onelock.Locker("file://{tmp_path}/locks")
ready = threading.Event()
def work():
    {NEVER_STOPS[what].strip().replace(chr(10), chr(10) + "    ")}
threading.Thread(target=work, daemon=True).start()
assert ready.wait(30)
"""
    for _ in range(12):
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), ended


SEES_ITS_CANCELLATION = """
import asyncio, select, threading
import onelock
from onelock import _aio, _engine

locker = onelock.Locker("memory:")
answered, cancelled = threading.Event(), threading.Event()

# The exit waits here, when it has cancelled all operations.
wait_idle = _engine._onelock.wait_idle
def exits(limit):
    cancelled.set()
    # Long enough for a word.
    thread.join(0.3)
    wait_idle(limit)
_engine._onelock.wait_idle = exits

wait_for = _engine.wait_for
def answers(*args):
    assert wait_for(*args)
    answered.set()
    cancelled.wait()
    return True

def acquires():
    _engine.wait_for = answers
    locker.acquire("x")

def begins():
    answered.set()
    cancelled.wait()
    locker.acquire("x")
    print("acquired")

def begins_late():
    def begin():
        answered.set()
        cancelled.wait()
        return locker._core.acquire("x", None, {})
    _engine.run(begin)
    print("acquired")

async def in_a_loop():
    task = asyncio.ensure_future(locker.aio.acquire("x"))
    await asyncio.sleep(0)
    select.select([_aio._here().bell], [], [])
    answered.set()
    cancelled.wait()
    await task

thread = threading.Thread(target=WORK, daemon=True)
thread.start()
assert answered.wait(30)
"""


@pytest.mark.parametrize("work", ["acquires", "begins", "begins_late", "lambda: asyncio.run(in_a_loop())"])
def test_a_daemon_thread_that_the_exit_cancels_says_nothing(work: str) -> None:
    script = SEES_ITS_CANCELLATION.replace("WORK", work)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=50, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), ended


CHANGES_MEANWHILE = """
import sys, threading
import onelock
from onelock import _engine

sys.setswitchinterval(1e-6)
locker = onelock.Locker("memory:")
seen = 0

def work(name):
    global seen
    while True:
        guards = [locker.acquire(name + str(number)) for number in range(8)]
        ops = [_engine.start(guard._native.wait_lost) for guard in guards]
        for guard in guards:
            guard.release()
        seen += 1

for name in "abcd":
    threading.Thread(target=work, args=[name], daemon=True).start()
here = _engine.process()
while seen < 200:
    here.all_ops()
    here.all_guards()
"""


def test_the_exit_reads_what_daemon_threads_change() -> None:
    ended = subprocess.run([sys.executable, "-c", CHANGES_MEANWHILE], capture_output=True, timeout=50, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), ended


CLEANS_UP = """
import atexit, sys
import onelock

def clean_up():
    guard.check()
    print("held", guard.release())

atexit.register(clean_up)
guard = onelock.Locker(sys.argv[1]).acquire("x")
"""


def test_an_exit_handler_that_comes_after_the_import_runs_under_the_lock(tmp_path: Path) -> None:
    script = [sys.executable, "-c", CLEANS_UP, f"file://{tmp_path}/locks"]
    ended = subprocess.run(script, capture_output=True, timeout=50, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "held True\n", ""), ended


class Gate:
    """Connections to a server. While it is shut, it keeps the answers of the server back."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._state = threading.Condition()
        self._is_shut = False
        self.kept = 0
        """The connections with an answer that waits for the gate."""
        self.ended = 0
        """The connections that the client has closed."""
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self, is_shut: bool) -> None:
        with self._state:
            self._is_shut = is_shut
            self._state.notify_all()

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._state:
            return self._state.wait_for(condition, timeout)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := client.recv(65536):
                server.sendall(request)
        with self._state:
            self.ended += 1
            self._state.notify_all()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(65536):
                with self._state:
                    self.kept += 1
                    self._state.notify_all()
                    self._state.wait_for(lambda: not self._is_shut)
                    self.kept -= 1
                client.sendall(answer)


CANCELLED = {
    "by a signal handler that raises": """
opened()
try:
    locker.acquire("x")
except Stop:
    pass
""",
    "by a signal handler, and the locker is gone": """
opened()
try:
    locker, asked = None, locker
    asked.acquire("x")
except Stop:
    del asked
""",
    "by a task of asyncio": """
import asyncio

async def main():
    opened()
    task = asyncio.ensure_future(locker.aio.acquire("x"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, task.cancel)
    await asyncio.wait([task])

asyncio.run(main())
""",
    "by the exit, in a daemon thread": """
import threading
try:
    opened()
    threading.Thread(target=locker.acquire, args=["x"], daemon=True).start()
    signal.pause()
except Stop:
    pass
""",
    "by the drop of the guard during a renewal": """
guard = locker.acquire("x", renew=0.05)
try:
    opened()
    signal.pause()
except Stop:
    locker.close()
    del guard
""",
}


@pytest.mark.parametrize("how", CANCELLED)
def test_a_request_whose_answer_is_on_the_way_leaves_no_lock(how: str, redis_url: str) -> None:
    url = urlsplit(redis_url)
    gate = Gate((url.hostname or "", url.port or 0))
    script = f"""
import signal, sys, onelock

class Stop(Exception): pass
def stop(*_): raise Stop

def opened():
    print("opened", flush=True)
    sys.stdin.readline()

signal.signal(signal.SIGALRM, stop)
locker = onelock.Locker(sys.argv[1])
# The store is open, and there has been no guard.
locker.inspect("x")
{CANCELLED[how]}
print("cancelled", flush=True)
"""
    through = url._replace(netloc=f"127.0.0.1:{gate.port}").geturl()
    child = subprocess.Popen(
        [sys.executable, "-c", script, through], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"opened\n"
    gate.shut(True)
    child.stdin.write(b"go\n")
    child.stdin.flush()
    assert gate.wait(lambda: gate.kept > 0, 30)
    assert not onelock.Locker(redis_url).try_acquire("x"), "the lock is held"
    child.send_signal(signal.SIGALRM)
    assert child.stdout.readline() == b"cancelled\n"
    # A process that does not wait for its release ends meanwhile.
    gate.wait(lambda: gate.ended > 0, 0.5)
    gate.shut(False)
    _, error = child.communicate(timeout=30)
    assert (child.returncode, error) == (0, b"")
    # The ttl is 30 s, so a lock that was left would still be held.
    free = onelock.Locker(redis_url).try_acquire("x")
    assert isinstance(free, onelock.Guard), free
    free.release()
