"""A store of locks."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from . import _engine
from ._errors import ConfigError, LockHeld
from ._guard import Guard
from ._lock import Lock, Locked, LostAtExit, Name, OnLoss
from ._onelock import Core, CoreGuard
from ._options import CallOptions, Duration, LockOptions, of_lock, of_store, wait_seconds
from ._types import Finding, Held, Holder, Listing, PastHolder, Timing

if TYPE_CHECKING:
    from ._aio import AsyncLocker

__all__ = ["Locker"]

F = TypeVar("F", bound=Callable[..., Any])


class Locker:
    """One store of locks, and the options of its locks.

    ``url`` is a config string, such as ``redis://cache.internal`` or ``file:///mnt/efs/locks``.
    Without it, the store is that of ``$ONELOCK_URL``, else of the file ``$ONELOCK_URL_FILE``, else
    a private directory of this user, as for the command ``onelock``.

    Every option of the config string is a keyword too; durations are seconds or a ``timedelta``.
    A wrong option raises ``ConfigError`` here. The store is opened at its first use, and opened anew
    in a child made by ``fork``.
    """

    def __init__(
        self, url: str | None = None, *, prefix: str = "", require: Iterable[str] | str = (), **options: Any
    ) -> None:
        self._url = url
        self._store_options: dict[str, Any] = {
            **options,
            **({"prefix": prefix} if prefix else {}),
            **({"require": require if isinstance(require, str) else list(require)} if require else {}),
        }
        self._core = Core(_choose(url), of_store(self._store_options))

    @property
    def store(self) -> str:
        """The store as a config string without secrets."""
        return self._core.store

    @cached_property
    def aio(self) -> AsyncLocker:
        """The same methods as coroutines."""
        from ._aio import AsyncLocker

        return AsyncLocker(self)

    def acquire(
        self,
        name: str,
        *,
        wait: Duration | None = None,
        on_waiting: Callable[[Holder], None] | None = None,
        **options: Unpack[LockOptions],
    ) -> Guard:
        """Waits for the lock, and returns its guard.

        Raises ``LockHeld`` when ``wait`` is over; 0 tries once, ``None`` waits for as long as it
        takes. Raises ``StoreError`` if the store keeps failing for 30 s, or for ``wait``.
        ``on_waiting`` is called with each holder that the waiter meets.
        """
        answer = self._attempt(name, wait, on_waiting, options)
        if isinstance(answer, Held):
            raise LockHeld(answer.holder.name, answer.holder, self.store)
        return answer

    def try_acquire(self, name: str, **options: Unpack[LockOptions]) -> Guard | Held:
        """Tries to acquire the lock without waiting. ``Held`` is false, and has the holder::

        if guard := locker.try_acquire("nightly-etl"):
            with guard: ...
        """
        return self._attempt(name, 0, None, options)

    def _attempt(
        self,
        name: str,
        wait: Duration | None,
        on_waiting: Callable[[Holder], None] | None,
        options: LockOptions,
    ) -> Guard | Held:
        limit, checked = wait_seconds(wait), of_lock(dict(options))
        _engine.refuse_green_threads(limit)
        on_news = _engine.on_news(name, on_waiting)
        answer: Any = None
        try:
            begin = lambda: self._core.acquire(name, limit, checked, on_news is not None)  # noqa: E731
            answer = _engine.run(begin, on_news)
            if isinstance(answer, CoreGuard):
                return Guard(answer, self._core)
        except BaseException:
            # A signal handler may raise at any moment, also right after the lock was acquired.
            if isinstance(answer, CoreGuard):
                answer.abandon()
            raise
        return Held(_engine.holder(name, answer))

    def lock(
        self,
        name: str,
        *,
        wait: Duration | None = None,
        on_loss: OnLoss = "check",
        lost_at_exit: LostAtExit = "raise",
        cancel_on_loss: bool = True,
        **options: Unpack[LockOptions],
    ) -> Lock:
        """Returns the lock for ``with``, which gives a ``Guard``, and for ``async with``.

        ``on_loss`` says what happens when the lock is lost during the block. With "check", the work
        asks ``guard.check()``, and the end of the block raises ``LockLost``. With "term", this
        process gets SIGTERM when the work has to stop, and ends with 75 when the lock ends. With
        "exit", it only ends with 75. Both also stop a process that is stuck in C code.

        ``lost_at_exit="log"`` logs instead of raising at the end of the block. In ``async with``, a
        loss cancels the task and raises ``LockLost`` after the block, unless ``cancel_on_loss`` is
        false.
        """
        of_lock(dict(options))
        wait_seconds(wait)
        return Lock(
            self,
            name,
            wait=wait,
            on_loss=on_loss,
            lost_at_exit=lost_at_exit,
            cancel_on_loss=cancel_on_loss,
            options=options,
        )

    def locked(
        self,
        name: Name = None,
        *,
        wait: Duration | None = None,
        skip: bool = False,
        skipped: Any = None,
        pass_guard: str | None = None,
        on_loss: OnLoss = "check",
        deadline: Callable[..., Duration] | Duration | None = None,
        **options: Unpack[CallOptions],
    ) -> Callable[[F], F]:
        """Decorates a function or a coroutine function: each call runs under the lock.

        The name is a text, or a function of the call's arguments, or that of the function with its
        module. With ``skip``, a call returns ``skipped`` if the lock is held, and logs the holder.
        Without it, a call waits for ``wait``, and then raises ``LockHeld``. ``pass_guard`` is the
        keyword under which the function gets the guard. ``deadline`` may be a function of the
        arguments.
        """
        of_lock(dict(options))
        wait_seconds(wait)
        return Locked(
            self,
            name,
            wait=wait,
            skip=skip,
            skipped=skipped,
            pass_guard=pass_guard,
            on_loss=on_loss,
            deadline=deadline,
            options=options,
        )

    def inspect(self, name: str) -> Holder | None:
        """Returns the holder of the lock now, or ``None`` when it is free."""
        return _holder(name, _engine.run(lambda: self._core.inspect(name)))

    def last_holder(self, name: str) -> PastHolder | None:
        """Returns the last holder of a free lock, as far as the store keeps it."""
        return past_holder(name, _engine.run(lambda: self._core.last_holder(name)))

    def list(self, prefix: str = "") -> Listing[Holder]:
        """Lists the holders of the locks whose names begin with ``prefix``, by name."""
        return listing(_engine.run(lambda: self._core.list(prefix)))

    def break_lock(self, name: str, holder: Holder, by: str) -> bool:
        """Takes the lock away from ``holder``, if nothing has changed since it was seen. The holder
        reads ``by`` as the reason of its loss."""
        broken: bool = _engine.run(lambda: self._core.break_lock(name, holder.version, by))
        return broken

    def examine(self) -> builtins.list[Finding]:
        """Checks how the store is set up: what of it is fit for locks, and what to change."""
        return [Finding(*finding) for finding in _engine.run(self._core.diagnose)]

    @property
    def capabilities(self) -> frozenset[str]:
        """What the store can do, in the words of ``require``. It opens the store."""
        return frozenset(_engine.run(self._core.about)[0])

    @property
    def timing(self) -> Timing:
        """The timing of locks without options of their own. It opens the store."""
        return Timing(**_engine.run(self._core.about)[1])

    def close(self) -> None:
        """Ends the connections, once no guard needs them. It releases no lock, and the next use
        opens the store anew."""
        self._core.close()

    def __enter__(self) -> Locker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Locker {self.store}>"

    def __reduce__(self) -> Any:
        # The URL and the options, with their secrets, as the client of redis-py does.
        return _rebuild, (self._url, self._store_options)


def _rebuild(url: str | None, options: dict[str, Any]) -> Locker:
    return Locker(url, **options)


def _choose(url: str | None) -> str | None:
    if url is not None:
        return url
    named, file = os.environ.get("ONELOCK_URL"), os.environ.get("ONELOCK_URL_FILE")
    if named and file:
        raise ConfigError(
            "$ONELOCK_URL and $ONELOCK_URL_FILE are both set; unset one, or pass the URL to Locker", kind="config"
        )
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {file}, the file named by $ONELOCK_URL_FILE", kind="config") from error
    return named or None


def _holder(name: str, fields: dict[str, Any] | None) -> Holder | None:
    return None if fields is None else _engine.holder(name, fields)


def past_holder(name: str, answer: tuple[Any, ...] | None) -> PastHolder | None:
    """Makes the last holder of an answer."""
    if answer is None:
        return None
    from ._types import _time

    fields, end, by, at = answer
    return PastHolder(_engine.holder(name, fields), end, by, _time(at))


def listing(answer: tuple[Any, ...]) -> Listing[Holder]:
    """Makes the list of an answer."""
    locks, odd, odd_count = answer
    found: Listing[Holder] = Listing(_engine.holder(name, fields) for name, fields in locks)
    found.odd, found.odd_count = tuple(odd), odd_count
    return found
