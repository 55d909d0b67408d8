"""Measures the package beside filelock, redis-py and python-redis-lock: speed.py MODULE [ROUNDS].

MODULE is the native half, of ``cargo build --profile wheel -p onelock-py``.

- A cycle acquires and releases a free lock. The contestants take turns in short blocks, so that
  the state of the machine affects all of them.
- A hand-off is the time from the call that releases to the end of the call that waits, which is in
  another process. The wait is of random length, so that polls come at every distance.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent / "python/onelock"
BLOCK = 50
"""How many cycles a contestant makes before the next one has its turn."""

Lock = Callable[[], AbstractContextManager[Any]]


def contestants(directory: str, url: str) -> dict[str, Lock]:
    """Returns what makes the lock of each contestant, by its name."""
    import filelock
    import onelock
    import redis
    import redis_lock

    files, server = onelock.Locker(f"file://{directory}/ours"), onelock.Locker(url)
    client = redis.Redis.from_url(url)
    theirs = filelock.FileLock(f"{directory}/theirs.lock")
    return {
        "onelock, files": lambda: files.lock("x"),
        "filelock": lambda: theirs,
        "onelock, Redis": lambda: server.lock("ours"),
        "redis-py": lambda: client.lock("redis-py", timeout=30),
        "python-redis-lock": lambda: redis_lock.Lock(client, "python-redis-lock", expire=30),
    }


def cycles(locks: dict[str, Lock], rounds: int) -> dict[str, list[float]]:
    """Returns the times of cycles."""
    times: dict[str, list[float]] = {name: [] for name in locks}
    for block in range(rounds + 1):
        for name, lock in locks.items():
            for _ in range(BLOCK):
                start = time.perf_counter()
                with lock():
                    pass
                # The first block opens the stores.
                if block > 0:
                    times[name].append(time.perf_counter() - start)
    return times


def hand_offs(locks: dict[str, Lock], rounds: int, arguments: list[str]) -> dict[str, list[float]]:
    """Returns the times of hand-offs."""
    times: dict[str, list[float]] = {name: [] for name in locks}
    for name, lock in locks.items():
        command = [sys.executable, __file__, "wait", name, *arguments]
        with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1) as waiter:
            assert waiter.stdin is not None and waiter.stdout is not None
            for round_ in range(rounds + 1):
                with lock():
                    print("wait", file=waiter.stdin, flush=True)
                    waiter.stdout.readline()
                    time.sleep(random.uniform(0.05, 0.25))
                    released = time.monotonic()
                acquired = float(waiter.stdout.readline())
                if round_ > 0:
                    times[name].append(acquired - released)
            waiter.stdin.close()
    return times


def wait(lock: Lock) -> None:
    """Waits for the lock as often as the parent says so."""
    for _ in sys.stdin:
        print("waits", flush=True)
        with lock():
            acquired = time.monotonic()
        print(acquired, flush=True)


@contextmanager
def redis_server(directory: str) -> Iterator[str]:
    """Starts a server, and gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
        try:
            await_server(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def await_server(port: int) -> None:
    """Waits until a server listens."""
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def show(title: str, unit: str, scale: float, times: dict[str, list[float]]) -> None:
    """Prints a table."""
    print(f"| {title} | median | p99 |\n|---|---|---|")
    for name, all_times in times.items():
        median, p99 = statistics.median(all_times), statistics.quantiles(all_times, n=100)[98]
        print(f"| {name} | {median * scale:,.1f} {unit} | {p99 * scale:,.1f} {unit} |")
    print()


def main(module: str, rounds: int) -> None:
    """Measures all contestants."""
    with tempfile.TemporaryDirectory() as place, redis_server(place) as url:
        shutil.copytree(SOURCES, f"{place}/onelock", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shutil.copy(module, f"{place}/onelock/_onelock.abi3.so")
        os.environ["PYTHONPATH"] = place
        sys.path.insert(0, place)
        locks = contestants(place, url)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}\n")
        show("cycle", "us", 1e6, cycles(locks, rounds))
        show("hand-off", "ms", 1e3, hand_offs(locks, rounds, [place, url]))


if sys.argv[1:2] == ["wait"]:
    wait(contestants(*sys.argv[3:])[sys.argv[2]])
else:
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
