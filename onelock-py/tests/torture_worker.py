"""One of many workers that contend for a lock: torture_worker.py URL NAME SEED.

It prints what it does and when, on the clock that goes on while a process is stopped. The test
kills and stops it at random moments.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
import time

import onelock


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def note(kind: str, at: int, **fields: object) -> None:
    # One write for each line, so that a kill leaves no half of one.
    sys.stdout.write(json.dumps({"kind": kind, "at": at, **fields}) + "\n")
    sys.stdout.flush()


def until(guard: onelock.Guard, at: int) -> int | None:
    left = guard.remaining()
    return None if left is None else at + int(left * 1e9)


def work(locker: onelock.Locker, name: str, chance: random.Random) -> None:
    note("attempt", now())
    try:
        guard = locker.acquire(name, wait=5)
    except (onelock.LockHeld, onelock.StoreError):
        note("gave_up", now())
        return
    # Before the guard says that it is valid.
    at = now()
    end = until(guard, at)
    if guard.lost is not None:
        note("gave_up", now())
        guard.release()
        return
    note("granted", at, token=guard.token, until=end)
    for _ in range(chance.randrange(6)):
        time.sleep(chance.random() * 0.02)
        at = now()
        end = until(guard, at)
        if guard.lost is not None:
            note("lost", now())
            guard.release()
            return
        note("valid", at, until=end)
    note("released", now())
    # A release that failed goes on in the background.
    with contextlib.suppress(onelock.StoreError):
        guard.release()


def main() -> None:
    # Losses are expected here, and the output has only events.
    logging.getLogger("onelock").addHandler(logging.NullHandler())
    url, name, seed = sys.argv[1:]
    locker, chance = onelock.Locker(url), random.Random(int(seed))
    while True:
        work(locker, name, chance)


main()
