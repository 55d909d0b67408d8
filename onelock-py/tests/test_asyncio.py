"""asyncio: cancellation at any moment, loss as cancellation, several loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading

import onelock
import pytest
from onelock.pytest_plugin import MemoryLocker


def test_the_methods_are_those_of_a_locker(locker: onelock.Locker) -> None:
    async def main() -> None:
        aio = locker.aio
        guard = await aio.acquire("x", owner="me")
        held = await aio.try_acquire("x")
        assert isinstance(held, onelock.Held) and held.holder.owner == "me"
        with pytest.raises(onelock.LockHeld):
            await aio.acquire("x", wait=0.05)
        holder = await aio.inspect("x")
        assert holder is not None and holder.token == guard.token
        assert [one.name for one in await aio.list()] == ["x"]
        assert await aio.capabilities() == locker.capabilities and await aio.timing() == locker.timing
        assert isinstance(await aio.examine(), list)
        await guard.ensure(0.001)
        assert await guard.wait_lost(0.01) is None
        assert await guard.release() is True and await guard.release() is False
        async with locker.lock("x") as guard:
            assert isinstance(guard, onelock.AsyncGuard)
            assert [item async for item in guard.each([1, 2])] == [1, 2]
        assert await aio.inspect("x") is None
        async with await aio.acquire("x") as guard:
            guard.check()
        assert await aio.inspect("x") is None

    asyncio.run(asyncio.wait_for(main(), 60))


def test_tasks_lose_no_update(locker: onelock.Locker) -> None:
    async def main() -> int:
        total = 0

        async def work() -> None:
            nonlocal total
            async with locker.lock("x"):
                seen = total
                await asyncio.sleep(0)
                total = seen + 1

        await asyncio.gather(*(work() for _ in range(40)))
        return total

    assert asyncio.run(asyncio.wait_for(main(), 100)) == 40


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_ten_thousand_cancelled_acquisitions_leave_nothing(store: str, redis_url: str) -> None:
    locker = onelock.Locker("memory:?prefix=races" if store == "memory" else redis_url)
    chance = random.Random(7)

    async def one(number: int) -> None:
        name = f"x{number % 16}"

        async def hold() -> None:
            async with locker.lock(name):
                await asyncio.sleep(0)

        task = asyncio.ensure_future(hold())
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def main() -> None:
        for start in range(0, 10_000, 250):
            await asyncio.gather(*(one(start + number) for number in range(250)))
        for number in range(16):
            # The ttl is 30 s, so a lock that was left would still be held.
            guard = await locker.aio.acquire(f"x{number}", wait=15)
            assert await guard.release()

    asyncio.run(asyncio.wait_for(main(), 100))


def lose_soon(locker: MemoryLocker) -> None:
    asyncio.get_running_loop().call_later(0.02, locker.lose, "x")


def test_a_loss_cancels_the_block(onelock_memory: MemoryLocker) -> None:
    async def main() -> None:
        reached = False
        with pytest.raises(onelock.LockLost) as error:
            async with onelock_memory.lock("x", ttl=3, renew=0.02):
                lose_soon(onelock_memory)
                await asyncio.sleep(15)
                reached = True
        assert not reached and error.value.reason == "record_gone"
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_callers_cancellation_stays_a_cancellation(onelock_memory: MemoryLocker) -> None:
    async def body(lose: bool, inside: asyncio.Event) -> None:
        async with onelock_memory.lock("x", ttl=3, renew=0.02) as guard:
            inside.set()
            if lose:
                onelock_memory.lose("x")
                task = asyncio.current_task()
                assert task is not None
                task.get_loop().call_soon(task.cancel)
                await asyncio.shield(asyncio.ensure_future(guard.wait_lost()))
            await asyncio.sleep(3600)

    async def main() -> None:
        for lose in (False, True):
            inside = asyncio.Event()
            task = asyncio.ensure_future(body(lose, inside))
            await inside.wait()
            if not lose:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await (await onelock_memory.aio.acquire("x", wait=15)).release()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_both_cancellations_at_once_stay_a_cancellation(onelock_memory: MemoryLocker) -> None:
    async def body() -> None:
        async with onelock_memory.lock("x", renew="manual") as guard:
            # The release will find the lock lost.
            onelock_memory.lose("x")
            task = asyncio.current_task()
            assert task is not None
            # As the loss and the caller do before the task runs again.
            guard._has_cancelled = True
            task.cancel()
            task.cancel()
            await asyncio.sleep(3600)

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(body())

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_cancelled_release_behind_a_renewal_leaves_no_lock(onelock_memory: MemoryLocker) -> None:
    async def main() -> None:
        guard = await onelock_memory.aio.acquire("x", ttl=60, margin=6, renew="manual")
        onelock_memory.never_reply_next("renew")
        renewal = asyncio.ensure_future(guard.ensure(54))
        while onelock_memory.requests("renew") == 0:
            await asyncio.sleep(0.001)
        release = asyncio.ensure_future(guard.release())
        await asyncio.sleep(0)
        release.cancel()
        await asyncio.gather(release, return_exceptions=True)
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        # The ttl is a minute, so a lock that was left would still be held.
        assert await (await onelock_memory.aio.acquire("x", wait=20)).release()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_body_that_swallows_the_cancellation_gets_the_loss(onelock_memory: MemoryLocker) -> None:
    async def main() -> None:
        with pytest.raises(onelock.LockLost):
            async with onelock_memory.lock("x", ttl=3, renew=0.02):
                lose_soon(onelock_memory)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
        with pytest.raises(KeyError):
            async with onelock_memory.lock("x", ttl=3, renew=0.02):
                lose_soon(onelock_memory)
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    raise KeyError("the body's own error wins") from None
        with pytest.raises(onelock.LockLost):
            async with onelock_memory.lock("x", ttl=3, renew=0.02, cancel_on_loss=False) as guard:
                onelock_memory.lose("x")
                assert (await guard.wait_lost()) is not None
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_run_cancels_the_work_at_the_loss(onelock_memory: MemoryLocker) -> None:
    async def main() -> None:
        guard = await onelock_memory.aio.acquire("x", ttl=3, renew=0.02)
        assert await guard.run(asyncio.sleep(0, "done")) == "done"
        lose_soon(onelock_memory)
        with pytest.raises(onelock.LockLost):
            await guard.run(asyncio.sleep(3600))

        async def fails() -> None:
            raise KeyError

        other = await onelock_memory.aio.acquire("y")
        with pytest.raises(KeyError):
            await other.run(fails())
        await other.release()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_no_work_begins_after_the_loss(onelock_memory: MemoryLocker) -> None:
    async def main() -> None:
        ran = False

        async def work() -> None:
            nonlocal ran
            ran = True

        guard = await onelock_memory.aio.acquire("x", ttl=3, renew=0.02)
        onelock_memory.lose("x")
        assert await guard.wait_lost() is not None
        with pytest.raises(onelock.LockLost):
            await guard.run(work())
        with pytest.raises(onelock.LockLost):
            async with guard:
                ran = True
        assert not ran

    asyncio.run(asyncio.wait_for(main(), 30))


def test_two_loops_in_two_threads_and_one_after_another() -> None:
    locker = onelock.Locker("memory:?prefix=loops")
    total = 0

    async def main() -> None:
        nonlocal total
        for _ in range(50):
            async with locker.lock("x"):
                seen = total
                await asyncio.sleep(0)
                total = seen + 1

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    asyncio.run(main())
    assert total == 150


def test_a_loop_that_closes_early_leaves_no_lock() -> None:
    locker = onelock.Locker("memory:?prefix=closed")
    loop = asyncio.new_event_loop()
    task = loop.create_task(locker.aio.acquire("x"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    # The task and its future refer to each other.
    del task, loop
    gc.collect()
    assert locker.acquire("x", wait=15).release()


def test_uvloop_works_too() -> None:
    import uvloop

    locker = onelock.Locker("memory:?prefix=uvloop")

    async def main() -> None:
        async with locker.lock("x"):
            task = asyncio.ensure_future(locker.aio.acquire("x"))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await locker.aio.inspect("x") is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))
