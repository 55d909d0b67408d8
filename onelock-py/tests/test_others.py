"""Other programs on the same locks, and other packages' interfaces."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import onelock
import pytest
from onelock.compat.filelock import FileLock, Timeout


def test_filelock_and_the_package_exclude_each_other(tmp_path: Path) -> None:
    locker = onelock.Locker(f"file://{tmp_path}")
    theirs = filelock.FileLock(tmp_path / "x.lock")
    with theirs:
        held = locker.try_acquire("x")
        assert isinstance(held, onelock.Held)
    with locker.lock("x"), pytest.raises(filelock.Timeout):
        theirs.acquire(timeout=0)
    with theirs.acquire(timeout=0):
        pass


def test_flock_1_and_the_package_exclude_each_other(tmp_path: Path) -> None:
    locker = onelock.Locker(f"file://{tmp_path}", names="plain")
    file = tmp_path / "job"
    with locker.lock("job"):
        assert subprocess.run(["flock", "-n", "-E", "9", file, "true"], check=False).returncode == 9
    with subprocess.Popen(["flock", file, "sh", "-c", "echo held; exec cat"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert not locker.try_acquire("job")
        holder.communicate()
    assert locker.acquire("job", wait=15).release()


@pytest.mark.parametrize("compat", ["redis-py", "python-redis-lock"])
def test_clients_of_redis_and_the_package_exclude_each_other(compat: str) -> None:
    import redis
    import redis_lock

    base = os.environ["ONELOCK_TEST_REDIS"]
    client = redis.Redis.from_url(base.split("?")[0])
    locker = onelock.Locker(base, compat=compat)
    name = f"compat-{time.time_ns()}"
    is_redis_py = compat == "redis-py"
    theirs = client.lock(name, timeout=30) if is_redis_py else redis_lock.Lock(client, name, expire=30)
    assert theirs.acquire(blocking=False)
    assert not locker.try_acquire(name)
    theirs.release()
    with locker.lock(name):
        assert not theirs.acquire(blocking=False)
    assert theirs.acquire(blocking=False)
    theirs.release()


README_OF_FILELOCK = """
lock = FileLock("high_ground.txt.lock")
with lock:
    with open("high_ground.txt", "a") as f:
        f.write("You were the chosen one.")
try:
    with lock.acquire(timeout=10):
        with open("high_ground.txt", "a") as f:
            f.write("I have a bad feeling about this.")
except Timeout:
    print("Another instance of this application currently holds the lock.")
lock.acquire()
try:
    with open("high_ground.txt", "a") as f:
        f.write("You were the chosen one.")
finally:
    lock.release()
"""


@pytest.mark.parametrize("module", ["filelock", "onelock.compat.filelock"])
def test_the_readme_of_filelock_runs_on_both(module: str, tmp_path: Path) -> None:
    script = f"from {module} import FileLock, Timeout\n{README_OF_FILELOCK}"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=50)
    assert (tmp_path / "high_ground.txt").read_text().count("chosen one") == 2


def test_the_interface_of_filelock_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "job.pid"
    ours, theirs = FileLock(path), filelock.FileLock(path)
    with ours:
        assert ours.is_locked and ours.lock_counter == 1 and ours.lock_file == str(path)
        with ours:
            assert ours.lock_counter == 2
        assert ours.is_locked
        with pytest.raises(filelock.Timeout):
            theirs.acquire(timeout=0)
        with pytest.raises(Timeout, match="is held by") as error:
            FileLock(path, timeout=0.01).acquire()
        assert isinstance(error.value, TimeoutError) and error.value.lock_file == str(path)
        with pytest.raises(Timeout):
            FileLock(path).acquire(blocking=False)
        ours.acquire()
        ours.release(force=True)
    assert not ours.is_locked and ours.lock_counter == 0
    ours.release()
    with theirs, pytest.raises(Timeout):
        ours.acquire(timeout=0)
    with pytest.raises(onelock.UnsupportedError, match="ttl"):
        FileLock(path, lifetime=10)
    forgotten: Any = FileLock(path)
    forgotten.acquire()
    del forgotten
    with FileLock(path, timeout=10):
        pass


def test_a_file_lock_that_was_lost_is_not_acquired_again(tmp_path: Path) -> None:
    lock, path = FileLock(tmp_path / "x.lock"), tmp_path / "x.lock"
    with lock:
        path.unlink()
        assert lock.guard is not None and lock.guard.wait_lost(20) is not None
        ran = False
        with pytest.raises(onelock.LockLost), lock:
            ran = True
        assert not ran and lock.lock_counter == 1 and not lock.is_locked
    with lock:
        assert lock.is_locked


def test_a_file_lock_that_is_acquired_again_during_a_release_stays_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(tmp_path / "x.lock")
    lock.acquire()
    guard = lock.guard
    assert guard is not None
    releases = threading.Thread(target=lock.release)

    def check() -> None:
        # Between the look at the counter and its change. The release must wait for the change.
        releases.start()
        releases.join(1)

    monkeypatch.setattr(guard, "check", check)
    with lock:
        releases.join(60)
        assert guard.lost is None and lock.guard is guard and lock.lock_counter == 1
    assert not lock.is_locked


def test_threads_that_share_a_file_lock_exclude_each_other(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock")
    inside = most = 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with lock:
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.001)
                with counting:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1 and not lock.is_locked and lock.lock_counter == 0
    shared = FileLock(tmp_path / "y.lock", thread_local=False)
    shared.acquire()
    other = threading.Thread(target=shared.acquire)
    other.start()
    other.join(60)
    assert shared.lock_counter == 2
    shared.release(force=True)


@pytest.mark.parametrize("thread_local", [True, False])
def test_the_release_of_a_lost_file_lock_leaves_the_next_one_held(
    thread_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    lock, before = FileLock(path, thread_local=thread_local), FileLock(path)
    attempt, waiting = lock._locker._attempt, threading.Semaphore(0)
    entered: queue.Queue[tuple[threading.Thread, threading.Event]] = queue.Queue()
    nested: list[str] = []

    def attempts(*args: Any) -> Any:
        waiting.release()
        return attempt(*args)

    def work() -> None:
        with lock:
            goes_on = threading.Event()
            entered.put((threading.current_thread(), goes_on))
            goes_on.wait(60)
            try:
                with lock:
                    nested.append("held")
            except onelock.LockLost:
                nested.append("lost")

    monkeypatch.setattr(lock._locker, "_attempt", attempts)
    before.acquire()
    for _ in range(2):
        threading.Thread(target=work).start()
        # Both have found that the object holds nothing.
        assert waiting.acquire(timeout=30)
    before.release()
    first, first_goes_on = entered.get(timeout=60)
    path.unlink()
    second, second_goes_on = entered.get(timeout=60)
    first_goes_on.set()
    first.join(60)
    assert lock.is_locked and lock.lock_counter == 1
    with pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    second_goes_on.set()
    second.join(60)
    assert nested == ["lost", "held"] and not lock.is_locked
    FileLock(path).acquire(timeout=0).lock.release()


def test_no_file_lock_is_acquired_that_was_lost_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    lock = FileLock(path)
    attempt = lock._locker._attempt

    def loses(*args: Any) -> Any:
        guard = attempt(*args)
        path.unlink()
        assert isinstance(guard, onelock.Guard) and guard.wait_lost(30)
        return guard

    monkeypatch.setattr(lock._locker, "_attempt", loses)
    ran = False
    with pytest.raises(onelock.LockLost), lock:
        ran = True
    monkeypatch.undo()
    assert not ran and lock.lock_counter == 0
    with lock:
        assert lock.is_locked


APPLICATION = """
import os, time
import onelock

# Made and used before gunicorn forks its workers.
locker = onelock.Locker(os.environ["STORE"])
with locker.lock("counter"):
    pass

def app(environ, start_response):
    path = os.environ["COUNTER"]
    with locker.lock("counter", wait=30):
        number = int(open(path).read())
        time.sleep(0.002)
        open(path, "w").write(str(number + 1))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("store", ["files", "redis"])
def test_workers_of_gunicorn_with_preload_exclude_each_other(store: str, tmp_path: Path) -> None:
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor

    from conftest import store_url

    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "counter").write_text("0")
    environment = {
        **os.environ,
        "STORE": store_url(store, tmp_path),
        "COUNTER": str(tmp_path / "counter"),
        "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}",
    }
    arguments = ["--preload", "--workers", "3", "--bind", "127.0.0.1:0", "application:app"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "gunicorn", *arguments], env=environment, stderr=log, cwd=tmp_path)
    try:
        address = listening(tmp_path / "log", server)

        def ask(_: int) -> bytes:
            with urllib.request.urlopen(address, timeout=60) as answer:
                body: bytes = answer.read()
                return body

        with ThreadPoolExecutor(6) as pool:
            workers = set(pool.map(ask, range(60)))
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        log.close()
    assert (tmp_path / "counter").read_text() == "60" and len(workers) > 1, workers


def listening(log: Path, server: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        for line in log.read_text().splitlines():
            if "Listening at: " in line:
                return line.split("Listening at: ")[1].split()[0]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


CELERY = """
import os, time
from celery import Celery
import onelock

app = Celery("jobs", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
locker = onelock.Locker(os.environ["STORE"])
with locker.lock("before the fork"):
    pass

@app.task
def hold():
    with locker.lock("job", wait=30) as guard:
        path = os.environ["COUNTER"]
        tries = int(open(path).read()) + 1
        open(path, "w").write(str(tries))
        if tries == 1:
            # A worker that is killed while it holds the lock.
            os.kill(os.getpid(), 9)
        return guard.token
"""


def test_a_killed_worker_of_celery_frees_the_lock(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "jobs.py").write_text(CELERY)
    (tmp_path / "counter").write_text("0")
    environment = {
        **os.environ,
        "STORE": f"file://{tmp_path}/locks",
        "COUNTER": str(tmp_path / "counter"),
        "BROKER": redis_url.split("?")[0],
        "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}",
    }
    worker = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--pool", "prefork", "-c", "2", "-l", "warning"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(worker, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        ask = "import jobs, sys; print(jobs.hold.delay().get(timeout=60))"
        asked = [sys.executable, "-c", ask]
        answer = subprocess.run(asked, env=environment, cwd=tmp_path, capture_output=True, timeout=90, text=True)
        assert answer.returncode == 0 and int(answer.stdout) > 0, (answer, (tmp_path / "log").read_text())
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        log.close()
    assert (tmp_path / "counter").read_text() == "2"
