"""The real python_dynamodb_lock and fasteners beside the package, and all foreign clients at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import fasteners
import filelock
import onelock
import pytest
import redis
import redis_lock
from python_dynamodb_lock.python_dynamodb_lock import DynamoDBLockClient, DynamoDBLockError

LEASE = 2
"""The seconds of a lease of python_dynamodb_lock."""


class Table:
    """A table of python_dynamodb_lock, which that package has made."""

    def __init__(self) -> None:
        server = parse_qs(urlsplit(os.environ["ONELOCK_TEST_DYNAMODB"]).query)
        self.name = f"python-{uuid.uuid4().hex}"
        self.reach = {
            "endpoint_url": server["endpoint"][0],
            "region_name": server["region"][0],
            "aws_access_key_id": server["access_key_id"][0],
            "aws_secret_access_key": server["secret_access_key"][0],
        }
        self.resource = boto3.resource("dynamodb", **self.reach)
        DynamoDBLockClient.create_dynamodb_table(self.resource.meta.client, table_name=self.name)
        query = os.environ["ONELOCK_TEST_DYNAMODB"].partition("?")[2]
        self.url = f"dynamodb://{self.name}?{query}&schema=python"

    def ours(self) -> onelock.Locker:
        return onelock.Locker(self.url, ttl=LEASE, renew=0.5)

    @contextmanager
    def theirs(self, owner: str = "python") -> Iterator[DynamoDBLockClient]:
        client = DynamoDBLockClient(
            self.resource,
            table_name=self.name,
            owner_name=owner,
            heartbeat_period=timedelta(milliseconds=500),
            safe_period=timedelta(milliseconds=1500),
            lease_duration=timedelta(seconds=LEASE),
        )
        try:
            yield client
        finally:
            client.close()


def acquire(client: DynamoDBLockClient, name: str, seconds: float) -> Any:
    """Acquires a lock of theirs. It takes zero seconds for a whole lease."""
    limit = max(timedelta(seconds=seconds), timedelta(microseconds=1))
    return client.acquire_lock(name, retry_period=timedelta(milliseconds=20), retry_timeout=limit)


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.resource.Table(table.name).delete()


def test_their_lock_in_dynamodb_is_held_for_us_until_its_release(table: Table) -> None:
    locker = table.ours()
    with table.theirs() as client:
        lock = acquire(client, "job", 0)
        # Longer than its lease, which its heartbeats extend.
        with pytest.raises(onelock.LockHeld) as held:
            locker.acquire("job", wait=2 * LEASE)
        assert held.value.holder.owner == "python"
        assert held.value.holder.foreign == "a lock of python_dynamodb_lock"
        lock.release(best_effort=False)
        with locker.lock("job", wait=0) as guard:
            assert guard.crashed_holder is None and guard.token is None


def test_our_lock_in_dynamodb_is_held_for_them_until_its_release(table: Table) -> None:
    with table.theirs() as client:
        with table.ours().lock("job", wait=0) as guard:
            with pytest.raises(DynamoDBLockError) as refused:
                acquire(client, "job", 2 * LEASE)
            assert refused.value.code == DynamoDBLockError.ACQUIRE_TIMEOUT
            guard.check()
        acquire(client, "job", 0).release(best_effort=False)


DIES = """
import os, sys
import onelock
onelock.Locker(sys.argv[1], ttl=2).acquire("job", wait=0)
os.kill(os.getpid(), 9)
"""


def test_each_takes_over_in_dynamodb_from_the_other_that_died(table: Table) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, table.url], check=False, timeout=60)
    assert died.returncode == -9
    with table.theirs() as client:
        acquire(client, "job", 10 * LEASE)
        # No heartbeat follows, and the item stays: the same as the death of its process.
        client.close(release_locks=False)
    with table.ours().lock("job", wait=10 * LEASE) as guard:
        assert guard.crashed_holder is not None and guard.crashed_holder.owner == "python"


Lock = Callable[[], AbstractContextManager[Any]]


@contextmanager
def mixed(client: str, directory: Path) -> Iterator[tuple[Lock, Lock]]:
    """Locks of ours and of another client, with the same name in the same store."""
    name = f"mixed-{uuid.uuid4().hex}"
    base = os.environ["ONELOCK_TEST_REDIS"]
    if client == "filelock":
        locker = onelock.Locker(f"file://{directory}")
        yield lambda: locker.lock(name), lambda: filelock.FileLock(directory / f"{name}.lock")
    elif client == "redis-py":
        locker, server = onelock.Locker(base, compat=client), redis.Redis.from_url(base)
        yield lambda: locker.lock(name), lambda: server.lock(name, timeout=30)
    elif client == "python-redis-lock":
        locker, server = onelock.Locker(base, compat=client), redis.Redis.from_url(base)
        yield lambda: locker.lock(name), lambda: redis_lock.Lock(server, name, expire=30)
    else:
        table = Table()
        locker = table.ours()
        with table.theirs() as theirs:
            yield lambda: locker.lock(name), lambda: acquire(theirs, name, 60)


@pytest.mark.parametrize("client", ["filelock", "redis-py", "python-redis-lock", "python_dynamodb_lock"])
def test_workers_with_ours_and_theirs_lose_no_update(client: str, tmp_path: Path) -> None:
    counter, rounds, workers = tmp_path / "counter", 10, 4
    counter.write_text("0")
    failed: list[BaseException] = []

    def work(lock: Lock) -> None:
        try:
            for _ in range(rounds):
                with lock():
                    number = int(counter.read_text())
                    time.sleep(0.001)
                    counter.write_text(str(number + 1))
        except BaseException as error:
            failed.append(error)

    with mixed(client, tmp_path) as locks:
        threads = [threading.Thread(target=work, args=[locks[worker % 2]]) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert not failed and int(counter.read_text()) == rounds * workers


FASTENERS = """
import sys
import fasteners
path, kind = sys.argv[1:]
if kind == "write":
    lock = fasteners.InterProcessLock(path)
    print(lock.acquire(blocking=False), flush=True)
else:
    lock = fasteners.InterProcessReaderWriterLock(path)
    print(lock.acquire_read_lock(blocking=False), flush=True)
sys.stdin.read()
"""


@contextmanager
def fasteners_tries(path: Path, kind: str) -> Iterator[bool]:
    """Lets a process try a lock of fasteners. It holds the lock until the end of the block."""
    command = [sys.executable, "-c", FASTENERS, str(path), kind]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        word = process.stdout.readline().strip()
        assert word in ("True", "False"), word
        yield word == "True"
        process.communicate()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["write", "read"])
def test_fasteners_excludes_only_itself_on_a_local_file_system(kind: str, shared: bool, tmp_path: Path) -> None:
    """The page says so; if this changes, it can say better."""
    locker, path = onelock.Locker(f"file://{tmp_path}"), tmp_path / "job.lock"
    with fasteners_tries(path, "write") as held:
        assert held
        with fasteners_tries(path, kind) as second:
            assert not second
        guard = locker.try_acquire("job", shared=shared)
        assert isinstance(guard, onelock.Guard)
        guard.release()
    with locker.lock("job", shared=shared), fasteners_tries(path, kind) as held:
        assert held


ADDS = """
import sys, time
import fasteners
path, counter = sys.argv[1:]
lock = fasteners.InterProcessLock(path)
for _ in range(40):
    assert lock.acquire(delay=0.001, max_delay=0.001)
    number = int(open(counter).read())
    time.sleep(0.002)
    open(counter, "w").write(str(number + 1))
    lock.release()
"""


def test_both_locks_exclude_programs_with_fasteners_alone(tmp_path: Path) -> None:
    """What the page recommends. In the other order a thread frees the file of the next one."""
    locker, path, counter = onelock.Locker(f"file://{tmp_path}"), tmp_path / "job.fasteners", tmp_path / "counter"
    counter.write_text("0")

    def work() -> None:
        for _ in range(40):
            with locker.lock("job"), fasteners.InterProcessLock(path):
                number = int(counter.read_text())
                time.sleep(0.005)
                counter.write_text(str(number + 1))

    programs = [subprocess.Popen([sys.executable, "-c", ADDS, str(path), str(counter)]) for _ in range(2)]
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [program.wait(120) for program in programs] == [0, 0]
    assert counter.read_text() == "160"
