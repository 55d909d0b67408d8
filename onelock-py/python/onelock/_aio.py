"""The same for asyncio. Each loop watches one descriptor, and no native thread calls Python."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from . import _engine
from ._errors import LockHeld, OnelockError
from ._guard import GuardBase, leave
from ._onelock import Bell, Core, CoreGuard, Op
from ._options import Duration, LockOptions, of_lock, seconds, wait_seconds
from ._types import Finding, Held, Holder, Listing, Lost, PastHolder, Timing

if TYPE_CHECKING:
    from ._locker import Locker

__all__ = ["AsyncGuard", "AsyncLocker"]

T = TypeVar("T")
log = logging.getLogger("onelock")


class _Loop:
    """The bell of one event loop, and the futures of the operations that wait in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = os.getpid()
        self.bell = Bell()
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self.bell.fileno(), self._heard)

    def _heard(self) -> None:
        for key in self.bell.drain():
            future = self._waiting.get(key)
            if future is not None and not future.done():
                future.set_result(None)

    async def run(
        self, begin: Callable[[Bell, int], Op], on_news: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        self._next += 1
        key = self._next
        op: Op | None = None
        try:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            op = _engine.start(lambda: begin(self.bell, key))
            while not op.ready:
                await self._waiting[key]
                self._waiting[key] = asyncio.get_running_loop().create_future()
                news = op.contended()
                if news is not None and on_news is not None:
                    on_news(news)
            return op.take()
        except BaseException:
            if op is not None:
                op.cancel()
            _engine.stop_at_exit()
            raise
        finally:
            del self._waiting[key]


# The reader of a loop keeps its bell. A strong reference here would keep the loop of each waiter.
_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Loop]] = weakref.WeakKeyDictionary()


def _here() -> _Loop:
    loop = asyncio.get_running_loop()
    known = _loops.get(loop)
    here = None if known is None else known()
    if here is None or here.pid != os.getpid():
        here = _Loop(loop)
        _loops[loop] = weakref.ref(here)
    return here


class AsyncGuard(GuardBase):
    """A held lock in asyncio; see ``Guard``."""

    def __init__(self, native: CoreGuard, core: Core) -> None:
        super().__init__(native, core)
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._cancelling = 0
        self._has_cancelled = False

    async def ensure(self, at_least: Duration) -> None:
        """Renews the lock if less than ``at_least`` of its validity is left; see ``Guard.ensure``."""
        self.check()
        least = seconds("at_least", at_least)
        await _here().run(lambda bell, key: self._native.ensure(least, bell, key))

    async def release(self) -> bool:
        """Releases the lock; see ``Guard.release``. If it is cancelled, the release goes on in the
        background."""
        self._note_released()
        try:
            released: bool = await _here().run(lambda bell, key: self._native.release(bell, key))
        except BaseException:
            self._native.abandon()
            raise
        return released

    async def wait_lost(self, timeout: Duration | None = None) -> Lost | None:
        """Waits until the lock is lost or released. Returns ``None`` after ``timeout``."""
        limit = None if timeout is None else seconds("timeout", timeout)
        lost = _here().run(lambda bell, key: self._native.wait_lost(bell, key))
        try:
            return Lost._of(await asyncio.wait_for(lost, limit))
        except TimeoutError:
            return None

    async def sleep(self, duration: Duration) -> None:
        """Sleeps, and raises ``LockLost`` as soon as the lock is lost."""
        await self.wait_lost(duration)
        self.check()

    async def each(self, iterable: Iterable[T]) -> AsyncIterator[T]:
        """Yields the items, and checks the lock before each: the loop stops when it is lost."""
        for item in iterable:
            self.check()
            yield item

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` under the lock, and cancels it when the lock is lost, which raises
        ``LockLost``. If the lock is lost already, ``work`` does not begin."""
        try:
            self.check()
        except BaseException:
            work.close()
            raise
        task = asyncio.ensure_future(work)
        lost = asyncio.ensure_future(self.wait_lost())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                self.check()
                return task.result()
            task.cancel()
            await asyncio.wait({task})
            self.check()
            return task.result()
        finally:
            await _end(task, lost)

    async def __aenter__(self) -> AsyncGuard:
        self.check()
        self._cancel_on_loss()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(error, "raise")

    def _cancel_on_loss(self) -> None:
        """Cancels the current task when the lock is lost, as ``asyncio.timeout`` does."""
        self._task = asyncio.current_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        await self.wait_lost()
        # The release fires the signal, too, and ends this task with it.
        if self._task is not None and not self._is_released:
            self._has_cancelled = True
            self._task.cancel()

    async def _leave(self, error: BaseException | None, lost_at_exit: str) -> None:
        if not self._native.is_ours:
            return
        lost = None if self._is_released else self._native.lost()
        # From here on a loss cancels nothing.
        task, self._task = self._task, None
        if self._watcher is not None:
            self._watcher.cancel()
        # The cancellation is ours alone if there is none of the caller beside it.
        is_ours = self._has_cancelled and task is not None and task.uncancel() <= self._cancelling
        try:
            was_held = self._is_released or await self.release()
        except OnelockError as failed:
            # The work is done. The release goes on in the background, or the ttl ends the lock.
            log.warning("%s", failed)
            was_held = True
        if is_ours and isinstance(error, asyncio.CancelledError):
            error = None
            lost_at_exit = "raise"
        leave(self, was_held, lost, error, lost_at_exit)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class AsyncLocker:
    """The methods of a ``Locker`` as coroutines. All of them are cancel safe: a lock that was
    acquired meanwhile is released in the background."""

    def __init__(self, locker: Locker) -> None:
        self._locker = locker
        self._core = locker._core

    async def acquire(
        self,
        name: str,
        *,
        wait: Duration | None = None,
        on_waiting: Callable[[Holder], None] | None = None,
        **options: Unpack[LockOptions],
    ) -> AsyncGuard:
        """Waits for the lock; see ``Locker.acquire``."""
        answer = await self._attempt(name, wait, on_waiting, options)
        if isinstance(answer, Held):
            raise LockHeld(answer.holder.name, answer.holder, self._locker.store)
        return answer

    async def try_acquire(self, name: str, **options: Unpack[LockOptions]) -> AsyncGuard | Held:
        """Tries to acquire the lock without waiting; see ``Locker.try_acquire``."""
        return await self._attempt(name, 0, None, options)

    async def _attempt(
        self,
        name: str,
        wait: Duration | None,
        on_waiting: Callable[[Holder], None] | None,
        options: LockOptions,
    ) -> AsyncGuard | Held:
        limit, checked = wait_seconds(wait), of_lock(dict(options))
        on_news = _engine.on_news(name, on_waiting)

        def begin(bell: Bell, key: int) -> Op:
            return self._core.acquire(name, limit, checked, on_news is not None, bell, key)

        answer: Any = await _here().run(begin, on_news)
        if isinstance(answer, CoreGuard):
            return AsyncGuard(answer, self._core)
        return Held(_engine.holder(name, answer))

    async def inspect(self, name: str) -> Holder | None:
        """Returns the holder of the lock now, or ``None`` when it is free."""
        fields = await _here().run(lambda bell, key: self._core.inspect(name, bell, key))
        return None if fields is None else _engine.holder(name, fields)

    async def last_holder(self, name: str) -> PastHolder | None:
        """Returns the last holder of a free lock, as far as the store keeps it."""
        from ._locker import past_holder

        return past_holder(name, await _here().run(lambda bell, key: self._core.last_holder(name, bell, key)))

    async def list(self, prefix: str = "") -> Listing[Holder]:
        """Lists the holders of the locks whose names begin with ``prefix``, by name."""
        from ._locker import listing

        return listing(await _here().run(lambda bell, key: self._core.list(prefix, bell, key)))

    async def break_lock(self, name: str, holder: Holder, by: str) -> bool:
        """Takes the lock away from ``holder``; see ``Locker.break_lock``. Not cancel safe: whether
        the lock was broken stays unknown."""

        def begin(bell: Bell, key: int) -> Op:
            return self._core.break_lock(name, holder.version, by, bell, key)

        broken: bool = await _here().run(begin)
        return broken

    async def examine(self) -> builtins.list[Finding]:
        """Checks how the store is set up."""
        return [Finding(*found) for found in await _here().run(lambda bell, key: self._core.diagnose(bell, key))]

    async def capabilities(self) -> frozenset[str]:
        """Returns what the store can do, in the words of ``require``."""
        return frozenset((await _here().run(lambda bell, key: self._core.about(bell, key)))[0])

    async def timing(self) -> Timing:
        """Returns the timing of locks without options of their own."""
        return Timing(**(await _here().run(lambda bell, key: self._core.about(bell, key)))[1])

    def __repr__(self) -> str:
        return f"<AsyncLocker {self._locker.store}>"
