"""Acquire, release, wait, options, errors, questions: on each store."""

from __future__ import annotations

import copy
import pickle
import threading
from datetime import timedelta
from pathlib import Path

import onelock
import pytest
from onelock.pytest_plugin import MemoryLocker


def test_a_free_lock_is_granted_and_a_held_one_is_not(locker: onelock.Locker) -> None:
    guard = locker.acquire("x", owner="first", data="part 1")
    assert guard.lost is None and not guard.stopping and guard.owner == "first"
    guard.check()
    held = locker.try_acquire("x")
    assert isinstance(held, onelock.Held) and not held
    assert (held.holder.owner, held.holder.data) == ("first", b"part 1")
    with pytest.raises(onelock.LockHeld) as refused:
        locker.acquire("x", wait=0.05)
    assert refused.value.holder.owner == "first" and isinstance(refused.value, TimeoutError)
    assert guard.release() is True
    assert guard.release() is False
    again = locker.try_acquire("x")
    assert again and isinstance(again, onelock.Guard)
    assert again.token is not None and guard.token is not None and again.token > guard.token
    with again:
        again.check()
    assert locker.inspect("x") is None


def test_with_releases_and_never_runs_without_the_lock(locker: onelock.Locker) -> None:
    with locker.lock("x") as guard:
        ran = False
        with pytest.raises(onelock.LockHeld), locker.lock("x", wait=0):
            ran = True
        assert not ran and guard.lost is None
    assert locker.inspect("x") is None
    lock = locker.lock("x")
    for _ in range(2):
        with lock, pytest.raises(onelock.OnelockError, match="not reentrant"), lock:
            pass
    assert guard.lost is not None and guard.lost.reason == "released"


@pytest.mark.parametrize("is_same", [False, True])
def test_a_waiter_gets_the_lock_and_hears_of_the_holder(locker: onelock.Locker, url: str, is_same: bool) -> None:
    guard = locker.acquire("x", owner="holder")
    seen: list[str | None] = []
    entered = threading.Event()

    def note(holder: onelock.Holder) -> None:
        seen.append(holder.owner)
        entered.set()

    # The waiters of one locker queue for a name without asking the store.
    other = locker if is_same else onelock.Locker(url)
    got: list[onelock.Guard] = []
    thread = threading.Thread(target=lambda: got.append(other.acquire("x", on_waiting=note)))
    thread.start()
    assert entered.wait(30) and not got
    guard.release()
    thread.join(30)
    assert got and got[0].release() and seen[0] == "holder"


def test_a_lock_is_handed_over_to_waiters_without_a_request(onelock_memory: MemoryLocker) -> None:
    held = onelock_memory.acquire("x", hand_over=100)
    sent = onelock_memory.requests("acquire")
    waiting = threading.Semaphore(0)
    tokens: list[int] = []

    def work() -> None:
        with onelock_memory.acquire("x", hand_over=100, on_waiting=lambda _: waiting.release()) as guard:
            tokens.append(guard.token or 0)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=60)
    held.release()
    for thread in threads:
        thread.join(60)
    assert len(tokens) == 12 and tokens == sorted(set(tokens))
    # No lock is handed over later than 1 s after its grant, so a slow machine sends some more.
    assert onelock_memory.requests("acquire") - sent < 12


def test_fair_waiters_are_served_in_their_order(locker: onelock.Locker, url: str) -> None:
    if "fair" not in locker.capabilities:
        with pytest.raises(onelock.UnsupportedError, match="leave fair out"):
            locker.try_acquire("x", fair=True)
        return
    held = locker.acquire("x")
    may_end = threading.Event()
    served: list[int] = []

    def work(number: int, waits: threading.Event, options: onelock.LockOptions) -> None:
        # The waiters of one locker and those of others have one order.
        own = locker if number % 2 else onelock.Locker(url)
        with own.acquire("x", on_waiting=lambda _: waits.set(), **options):
            served.append(number)
            assert may_end.wait(60)

    threads: list[threading.Thread] = []

    def wait(options: onelock.LockOptions) -> None:
        # A waiter may meet several holders, so each one has an event of its own.
        waits = threading.Event()
        threads.append(threading.Thread(target=work, args=(len(threads), waits, options)))
        threads[-1].start()
        assert waits.wait(60)

    # The first is not fair, so that all others come before it.
    wait({"fair": False})
    for _ in range(4):
        wait({"fair": True})
    held.release()
    assert not locker.try_acquire("x"), "a newcomer has overtaken a fair waiter"
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert served == [1, 2, 3, 4, 0]


def test_many_threads_lose_no_update(locker: onelock.Locker) -> None:
    total = 0

    def work() -> None:
        nonlocal total
        for _ in range(4):
            with locker.lock("x"):
                seen = total
                threading.Event().wait(0.001)
                total = seen + 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert total == 24


def test_threads_that_share_a_lock_object_keep_their_own_guards(locker: onelock.Locker) -> None:
    lock = locker.lock("x", permits=2)
    first, second = threading.Event(), threading.Event()
    seen: list[object] = []

    def hold() -> None:
        with lock as guard:
            first.set()
            assert second.wait(60)
            seen.append(guard.lost)

    thread = threading.Thread(target=hold)
    thread.start()
    assert first.wait(60)
    with lock as guard:
        assert guard.lost is None
    second.set()
    thread.join(60)
    assert seen == [None], "the block of the other thread lost its permit"
    assert locker.inspect("x") is None


def test_any_thread_may_release(locker: onelock.Locker) -> None:
    guard = locker.acquire("x")
    released: list[bool] = []
    thread = threading.Thread(target=lambda: released.append(guard.release()))
    thread.start()
    thread.join(60)
    assert released == [True] and locker.acquire("x", wait=0).release()


def test_questions_name_the_holder_and_change_nothing(locker: onelock.Locker) -> None:
    # The first lock creates the directory of files.
    assert locker.acquire("first").release()
    assert locker.inspect("x") is None and locker.list() == []
    with locker.lock("x", owner="me") as guard:
        holder = locker.inspect("x")
        assert holder is not None and (holder.owner, holder.token) == ("me", guard.token)
        assert [found.name for found in locker.list()] == ["x"] and locker.list("y") == []
    assert locker.inspect("x") is None
    assert {"fencing", "loss-signal", "holder"} <= locker.capabilities
    assert locker.timing.margin >= 0
    assert all(finding.level != "unfit" for finding in locker.examine())


def test_a_broken_lock_is_lost_with_the_operator_as_its_reason(locker: onelock.Locker) -> None:
    guard = locker.acquire("x", ttl=3, renew=0.2)
    holder = locker.inspect("x")
    assert holder is not None
    if "break" not in locker.capabilities:
        # A lock file cannot be taken from its holder.
        with pytest.raises(onelock.UnsupportedError, match="stop the holder"):
            locker.break_lock("x", holder, "ops")
        return
    assert locker.break_lock("x", holder, "ops")
    assert not locker.break_lock("x", holder, "ops")
    lost = guard.wait_lost(30)
    assert lost is not None and lost.reason in ("broken", "record_gone")
    with pytest.raises(onelock.LockLost) as error:
        guard.check()
    assert error.value.token == guard.token and guard.release() is False


def test_modes_mean_the_same(locker: onelock.Locker) -> None:
    assert {"shared", "permits"} <= locker.capabilities
    with locker.lock("x", shared=True), locker.lock("x", shared=True, wait=0):
        assert not locker.try_acquire("x")
    with locker.lock("y", permits=2), locker.lock("y", permits=2, wait=0):
        held = locker.try_acquire("y", permits=2)
        assert isinstance(held, onelock.Held) and held.holder.count == 2
    with pytest.raises(onelock.ConfigError, match="leave one out"):
        locker.try_acquire("x", shared=True, permits=2)


def test_every_holder_is_shown(locker: onelock.Locker) -> None:
    with locker.lock("x", shared=True, owner="one"), locker.lock("x", shared=True, owner="two", wait=0):
        held = locker.try_acquire("x")
        assert isinstance(held, onelock.Held)
        (listed,) = locker.list()
        for holder in [held.holder, locker.inspect("x"), listed]:
            assert holder is not None and (holder.count, holder.mode) == (2, "shared")
            (other,) = holder.others
            assert {holder.owner, other.owner} == {"one", "two"} and other.token != holder.token


def test_ensure_renews_a_manual_lease() -> None:
    locker = onelock.Locker("memory:", ttl=timedelta(seconds=20), renew="manual")
    guard = locker.acquire("x")
    guard.ensure(1)
    assert (guard.remaining() or 0) > 15 and guard.expires_at is not None
    with pytest.raises(onelock.ConfigError, match="longer ttl"):
        guard.ensure(60)
    guard.release()
    with pytest.raises(onelock.LockLost):
        guard.ensure(1)


def test_a_deadline_ends_the_lock_before_the_caller(locker: onelock.Locker) -> None:
    with pytest.raises(onelock.LockLost) as error, locker.lock("x", deadline=1.5) as guard:
        assert guard.wait_lost(30) is not None
    assert error.value.reason == "deadline"


WRONG = [
    ({"url": "memory:?tttl=3s"}, 'did you mean "ttl"'),
    ({"url": "memory:", "tttl": 3}, 'did you mean "ttl"'),
    ({"url": "redis://"}, "HOST is missing"),
    ({"url": "redis://h", "timeout": "5"}, "has no unit"),
    ({"url": "fil:///x"}, 'did you mean "file"'),
    ({"url": "memory:", "require": "fencin"}, 'did you mean "fencing"'),
    ({"url": "memory:", "ttl": -1}, "ttl=-1 is no duration"),
    ({"url": "memory:", "ttl": object()}, "ttl=<object"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_store_is_refused_when_it_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(onelock.ConfigError, match=message) as error:
        onelock.Locker(**arguments)  # type: ignore[arg-type]
    assert isinstance(error.value, ValueError) and error.value.kind == "config"


WRONG_OPTIONS = [
    ({"tll": 3}, 'did you mean "ttl"'),
    ({"mode": "shared"}, "of a lock; pass shared=True or permits=N. Known: data"),
    ({"foo": 3}, "of a lock. Known: data"),
    ({"ttl": "30s"}, "must be seconds or a timedelta"),
    ({"ttl": float("nan")}, "is no duration"),
    ({"ttl": float("inf")}, "is no duration"),
    ({"ttl": True}, "must be seconds"),
    ({"deadline": -1}, "is no duration"),
    ({"max_hold": 10**20}, "is no duration"),
    ({"data": 5}, "data must be bytes or a str"),
    ({"owner": b"x"}, "owner must be a str"),
    ({"permits": 0}, "permits=0 must be a number from 1"),
    ({"permits": 10**6}, "permits=1000000 must be"),
    ({"permits": True}, "permits must be a number"),
    ({"permits": 10**20}, "permits=100000000000000000000 must be a number from 1"),
    ({"hand_over": -1}, "hand_over=-1 must be a number, zero or more"),
    ({"hand_over": 1001}, "hand_over is 1001, but must be at most 1000"),
    ({"hand_over": True}, "hand_over must be a number, not True"),
    ({"renew": "often"}, 'must be "auto", "manual"'),
    ({"shared": 1}, "shared must be True or False"),
    ({"fair": "no"}, "fair must be True or False"),
    ({"fair": True, "hand_over": 9}, "fair and hand_over contradict each other"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_a_wrong_option_is_refused_with_its_name(options: dict[str, object], message: str) -> None:
    locker = onelock.Locker("memory:")
    with pytest.raises(onelock.ConfigError, match=message):
        locker.acquire("x", **options)  # type: ignore[arg-type]
    with pytest.raises(onelock.ConfigError), locker.lock("x", **options):  # type: ignore[arg-type]
        pass
    assert locker.inspect("x") is None


@pytest.mark.parametrize("name", ["", "x" * 3000])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(onelock.ConfigError):
        onelock.Locker("memory:").try_acquire(name)


def test_a_store_that_is_away_is_never_a_timeout() -> None:
    locker = onelock.Locker("redis://127.0.0.1:1/0?timeout=100ms&connect_timeout=100ms")
    with pytest.raises(onelock.StoreUnavailable) as error:
        locker.acquire("x", wait=0)
    assert isinstance(error.value, ConnectionError) and not isinstance(error.value, TimeoutError)
    assert error.value.retryable and error.value.operation == "acquire" and error.value.name == "x"
    assert error.value.__cause__ is not None


def test_the_store_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELOCK_URL", f"file://{tmp_path}/a")
    assert onelock.Locker().store == f"file://{tmp_path}/a"
    named = tmp_path / "url"
    named.write_text("memory:\n")
    monkeypatch.setenv("ONELOCK_URL_FILE", str(named))
    with pytest.raises(onelock.ConfigError, match="both set"):
        onelock.Locker()
    monkeypatch.delenv("ONELOCK_URL")
    assert onelock.Locker().store == "memory:"
    monkeypatch.setenv("ONELOCK_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(onelock.ConfigError, match="cannot read"):
        onelock.Locker()
    monkeypatch.delenv("ONELOCK_URL_FILE")
    monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path}/st ate?")
    locker = onelock.Locker(min_hold=0)
    assert not (tmp_path / "st ate?").exists(), "nothing is created before the first lock"
    with locker.lock("x"):
        assert (tmp_path / "st ate?/onelock/locks/x.lock").exists()


def test_values_cross_processes_and_guards_do_not(locker: onelock.Locker, url: str) -> None:
    again = pickle.loads(pickle.dumps(locker))
    assert again.store == locker.store
    with locker.lock("x") as guard:
        for refuse in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match=r"guard\.token"):
                refuse(guard)
        held = locker.try_acquire("x")
        assert isinstance(held, onelock.Held) and pickle.loads(pickle.dumps(held)) == held
        error = onelock.LockHeld("x", held.holder)
        assert pickle.loads(pickle.dumps(error)).holder == held.holder


def test_secrets_are_never_shown() -> None:
    locker = onelock.Locker("redis://u:hunter2@127.0.0.1:1/0?connect_timeout=50ms")
    with pytest.raises(onelock.StoreError) as error:
        locker.acquire("x", wait=0)
    assert "hunter2" not in f"{locker!r} {locker.store} {error.value} {error.value.__cause__}"


def test_closing_releases_nothing_and_the_next_use_opens_anew(locker: onelock.Locker) -> None:
    guard = locker.acquire("x")
    locker.close()
    guard.check()
    assert not locker.try_acquire("x")
    assert guard.release()
