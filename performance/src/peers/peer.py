"""A lock of a Python library: peer.py LIBRARY PORT-OR-PATH.

Answers each line on its input with one line:
cycles N    the nanoseconds of each of N cycles
wait        acquires, answers with CLOCK_MONOTONIC in nanoseconds, and releases
hold        acquires
release     answers with CLOCK_MONOTONIC just before the release
contend NAME SECONDS TASKS    cycles of threads on a lock of that name, or on one each for "-";
            answers with the number of threads that never acquired, and the microseconds of each wait
"""

import functools
import os
import sys
import threading
import time

LIBRARY, WHERE = sys.argv[1:]


@functools.cache
def client():
    import redis

    return redis.Redis(port=int(WHERE))


def redis_py(name="redis-py"):
    return client().lock(name, timeout=30)


def python_redis_lock(name="python-redis-lock"):
    import redis_lock

    return redis_lock.Lock(client(), name, expire=30)


def filelock(name=""):
    import filelock

    return filelock.FileLock(WHERE + name)


def fasteners(name=""):
    import fasteners

    return fasteners.InterProcessLock(WHERE + name)


def filelock_within(mine, seconds):
    import filelock

    try:
        mine.acquire(timeout=seconds)
    except filelock.Timeout:
        return False
    return True


create = {
    "redis-py": redis_py,
    "python-redis-lock": python_redis_lock,
    "filelock": filelock,
    "fasteners": fasteners,
}[LIBRARY]
acquire_within = {
    "redis-py": lambda mine, seconds: mine.acquire(blocking_timeout=seconds),
    # It takes whole seconds only.
    "python-redis-lock": lambda mine, seconds: mine.acquire(),
    "filelock": filelock_within,
    "fasteners": lambda mine, seconds: mine.acquire(timeout=seconds),
}[LIBRARY]
lock = create()


def cycles(count):
    times = []
    for _ in range(int(count)):
        start = time.perf_counter_ns()
        lock.acquire()
        lock.release()
        times.append(time.perf_counter_ns() - start)
    return " ".join(map(str, times))


def wait():
    lock.acquire()
    acquired = time.monotonic_ns()
    lock.release()
    return acquired


def hold():
    lock.acquire()
    return "held"


def release():
    before = time.monotonic_ns()
    lock.release()
    return before


def contend(name, seconds, tasks):
    names = [f"own-{os.getpid()}-{task}" if name == "-" else name for task in range(int(tasks))]
    locks, waits = [create(each) for each in names], [[] for _ in names]
    end = time.monotonic() + float(seconds)

    def work(task, mine):
        while (start := time.monotonic()) < end:
            # redis-py gives up before the end: when its next attempt would be too late.
            if not acquire_within(mine, max(end - start, 0.001)):
                break
            acquired = time.monotonic()
            if acquired < end:
                waits[task].append((acquired - start) * 1e6)
            mine.release()

    threads = [threading.Thread(target=work, args=each) for each in enumerate(locks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    starved = sum(not each for each in waits)
    return " ".join([str(starved)] + [f"{wait:.1f}" for each in waits for wait in each])


for line in sys.stdin:
    command, *arguments = line.split()
    print(globals()[command](*arguments), flush=True)
