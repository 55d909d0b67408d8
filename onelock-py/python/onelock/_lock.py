"""A lock for ``with`` and ``async with``, and the decorator."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from ._errors import ConfigError, LockHeld, OnelockError
from ._guard import Guard
from ._options import CallOptions, Duration, LockOptions, seconds

if TYPE_CHECKING:
    from ._aio import AsyncGuard
    from ._locker import Locker

__all__ = ["Lock"]

log = logging.getLogger("onelock")

OnLoss = Literal["check", "term", "exit"]
LostAtExit = Literal["raise", "log"]
F = TypeVar("F", bound=Callable[..., Any])


class Lock:
    """One name of a store, for ``with`` and ``async with``. Threads and tasks may share it. It is
    reusable, and not reentrant.

    The block never runs without the lock: it is acquired, or ``LockHeld`` is raised.
    """

    def __init__(
        self,
        locker: Locker,
        name: str,
        *,
        wait: Duration | None,
        on_loss: OnLoss,
        lost_at_exit: LostAtExit,
        cancel_on_loss: bool,
        options: LockOptions,
    ) -> None:
        _one_of("on_loss", on_loss, ("check", "term", "exit"))
        _one_of("lost_at_exit", lost_at_exit, ("raise", "log"))
        self._locker = locker
        self._name = name
        self._wait = wait
        self._on_loss: OnLoss = on_loss
        self._lost_at_exit: LostAtExit = lost_at_exit
        self._cancel_on_loss = cancel_on_loss
        self._options = options
        # Threads and tasks may share this object, and each has its own guard.
        self._held: dict[object, Guard | AsyncGuard] = {}

    def __repr__(self) -> str:
        return f"<Lock {self._name!r} of {self._locker.store}>"

    def _refuse_reentry(self) -> None:
        guard = self._held.get(_user())
        # A child made by `fork` inherits the entry, and waits like any other process.
        if guard is not None and guard._native.is_ours:
            raise OnelockError(
                f'the lock "{self._name}" is held by this object already; it is not reentrant, so make another Lock',
                kind="held",
                name=self._name,
            )

    def _begin(self, guard: Guard | AsyncGuard) -> None:
        """Prepares the block. It must not begin if the lock was lost since it was acquired."""
        guard.check()
        if self._on_loss != "check":
            grace = self._options.get("grace", self._locker._store_options.get("grace", 0.0))
            guard._native.end_process_on_loss(self._on_loss == "term", _grace(grace))

    def __enter__(self) -> Guard:
        self._refuse_reentry()
        guard = self._locker.acquire(self._name, wait=self._wait, **self._options)
        try:
            self._begin(guard)
            self._held[_user()] = guard
        except BaseException:
            self._held.pop(_user(), None)
            guard._native.abandon()
            raise
        return guard

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard = self._held.pop(_user(), None)
        if isinstance(guard, Guard):
            guard._leave(error, self._lost_at_exit)

    async def __aenter__(self) -> AsyncGuard:
        self._refuse_reentry()
        guard = await self._locker.aio.acquire(self._name, wait=self._wait, **self._options)
        try:
            self._begin(guard)
            self._held[_user()] = guard
            if self._cancel_on_loss:
                guard._cancel_on_loss()
        except BaseException:
            self._held.pop(_user(), None)
            guard._native.abandon()
            raise
        return guard

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard = self._held.pop(_user(), None)
        if guard is not None and not isinstance(guard, Guard):
            await guard._leave(error, self._lost_at_exit)


def _user() -> object:
    """Returns the task, or the thread outside of asyncio."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident() if task is None else task


def _grace(grace: object) -> float:
    # A text is of the config string; the store has checked it.
    return 0.0 if isinstance(grace, str) else seconds("grace", grace)


def _one_of(what: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ConfigError(f"{what}={value!r} must be one of {', '.join(words)}", kind="config")


Name = Union[str, Callable[..., str], None]


class Locked:
    """The decorator of ``Locker.locked``."""

    def __init__(
        self,
        locker: Locker,
        name: Name,
        *,
        wait: Duration | None,
        skip: bool,
        skipped: Any,
        pass_guard: str | None,
        on_loss: OnLoss,
        deadline: Callable[..., Duration] | Duration | None,
        options: CallOptions,
    ) -> None:
        if skip and wait is not None:
            raise ConfigError("skip=True does not wait, so leave out wait", kind="config")
        self._locker = locker
        self._name = name
        self._wait: Duration | None = 0 if skip else wait
        self._skip = skip
        self._skipped = skipped
        self._pass_guard = pass_guard
        self._on_loss: OnLoss = on_loss
        self._deadline = deadline
        self._options = options

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"{function.__qualname__} is a generator, whose body runs after the call; use `with` in it",
                kind="config",
            )
        wrapper = self._async(function) if inspect.iscoroutinefunction(function) else self._sync(function)
        return functools.wraps(function)(wrapper)  # type: ignore[return-value]

    def _lock(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lock:
        name = self._name
        if callable(name):
            name = name(*args, **kwargs)
        elif name is None:
            name = f"{function.__module__}.{function.__qualname__}"
        options: LockOptions = {**self._options}  # type: ignore[typeddict-item]
        if self._deadline is not None:
            deadline = self._deadline(*args, **kwargs) if callable(self._deadline) else self._deadline
            options = {**options, "deadline": deadline}
        return self._locker.lock(name, wait=self._wait, on_loss=self._on_loss, **options)

    def _with_guard(self, kwargs: dict[str, Any], guard: Any) -> dict[str, Any]:
        return kwargs if self._pass_guard is None else {**kwargs, self._pass_guard: guard}

    def _skipping(self, lock: Lock, held: LockHeld) -> Any:
        if not self._skip:
            raise held
        log.info('skipped: the lock "%s" is held by %s', lock._name, held.holder)
        return self._skipped

    def _sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            lock = self._lock(function, args, kwargs)
            try:
                guard = lock.__enter__()
            except LockHeld as held:
                return self._skipping(lock, held)
            with _Entered(lock):
                return function(*args, **self._with_guard(kwargs, guard))

        return call

    def _async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            lock = self._lock(function, args, kwargs)
            try:
                guard = await lock.__aenter__()
            except LockHeld as held:
                return self._skipping(lock, held)
            async with _Entered(lock):
                return await function(*args, **self._with_guard(kwargs, guard))

        return call


class _Entered:
    """Leaves a lock that was entered before. ``LockHeld`` of the entry is told from that of the
    body."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: Any) -> None:
        await self._lock.__aexit__(*error)
