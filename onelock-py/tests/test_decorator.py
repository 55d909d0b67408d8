"""The decorator, and the fixtures for tests of applications."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator

import onelock
import pytest
from onelock.pytest_plugin import MemoryLocker


def test_each_call_runs_under_the_lock_of_the_function(onelock_memory: MemoryLocker) -> None:
    @onelock_memory.locked(pass_guard="guard")
    def work(number: int, *, guard: onelock.Guard) -> tuple[int, str]:
        """Works."""
        return number, guard.name

    name = f"{__name__}.test_each_call_runs_under_the_lock_of_the_function.<locals>.work"
    assert work(3) == (3, name) and work.__doc__ == "Works."  # type: ignore[call-arg]
    assert onelock_memory.inspect(name) is None


def test_skip_returns_and_logs_the_holder(onelock_memory: MemoryLocker, caplog: pytest.LogCaptureFixture) -> None:
    @onelock_memory.locked("job", skip=True, skipped="skipped")
    def work() -> str:
        return "ran"

    assert work() == "ran"
    onelock_memory.held_by("job", "somewhere:1")
    with caplog.at_level(logging.INFO, "onelock"):
        assert work() == "skipped"
    assert 'the lock "job" is held by somewhere:1' in caplog.text
    onelock_memory.free("job")
    assert work() == "ran"


def test_without_skip_a_call_waits_and_raises(onelock_memory: MemoryLocker) -> None:
    @onelock_memory.locked("job", wait=0.01)
    def work() -> str:
        return "ran"

    onelock_memory.held_by("job", "somewhere:1")
    with pytest.raises(onelock.LockHeld) as error:
        work()
    assert error.value.holder.owner == "somewhere:1"


def test_a_held_lock_in_the_body_is_no_skip(onelock_memory: MemoryLocker) -> None:
    @onelock_memory.locked("job", skip=True, skipped="skipped")
    def work() -> None:
        onelock_memory.acquire("other", wait=0)

    onelock_memory.held_by("other", "somewhere:1")
    with pytest.raises(onelock.LockHeld):
        work()


def test_the_name_and_the_deadline_may_come_from_the_arguments(onelock_memory: MemoryLocker) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 5_000

    @onelock_memory.locked(
        lambda event, context: f"tenant-{event['tenant']}",
        deadline=lambda event, context: context.get_remaining_time_in_millis() / 1000,
        pass_guard="guard",
        skip=True,
    )
    def handler(event: dict[str, int], context: Context, guard: onelock.Guard) -> tuple[str, float]:
        return guard.name, guard.remaining() or 0

    name, left = handler({"tenant": 7}, Context())  # type: ignore[call-arg]
    assert name == "tenant-7" and left < 5


def test_a_coroutine_function_runs_under_the_lock(onelock_memory: MemoryLocker) -> None:
    @onelock_memory.locked("job", skip=True, skipped=None)
    async def work() -> str:
        holder = await onelock_memory.aio.inspect("job")
        assert holder is not None
        return "ran"

    assert asyncio.run(work()) == "ran"
    onelock_memory.held_by("job", "somewhere:1")
    assert asyncio.run(work()) is None


def test_what_cannot_hold_a_lock_is_refused(onelock_memory: MemoryLocker) -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(onelock.ConfigError, match="generator"):
        onelock_memory.locked()(generator)
    with pytest.raises(onelock.ConfigError, match="leave out wait"):
        onelock_memory.locked(skip=True, wait=3)
    with pytest.raises(onelock.ConfigError, match="on_loss='kill'"):
        onelock_memory.lock("x", on_loss="kill")  # type: ignore[arg-type]


def test_the_fixtures_name_their_store_in_the_environment(
    onelock_memory: MemoryLocker, request: pytest.FixtureRequest
) -> None:
    with onelock.Locker().lock("x"):
        assert onelock_memory.inspect("x") is not None
    onelock_memory.fail_next("acquire", "permission_denied")
    with pytest.raises(onelock.StorePermission):
        onelock.Locker().acquire("x", wait=0)
    with pytest.raises(onelock.ConfigError, match="there is no kind"):
        onelock_memory.fail_next("acquire", "sometimes")
    files: onelock.Locker = request.getfixturevalue("onelock_dir")
    assert onelock.Locker().store == files.store == os.environ["ONELOCK_URL"]
