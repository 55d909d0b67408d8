"""A held lock."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from . import _engine
from ._errors import LockLost, OnelockError
from ._onelock import Core, CoreGuard
from ._options import Duration, seconds
from ._types import Holder, Lost

__all__ = ["Guard"]

T = TypeVar("T")
log = logging.getLogger("onelock")


class GuardBase:
    """What sync and async guards have in common. None of it makes a request."""

    def __init__(self, native: CoreGuard, core: Core) -> None:
        self._native = native
        self._core = core
        self._is_released = False
        # Kept here, and not by the process: a callback that refers to its guard would keep the lock.
        # Each `pop` takes it for one thread alone.
        self._callback: deque[Callable[[Lost], None]] = deque(maxlen=1)
        _engine.note_guard(native)

    @property
    def name(self) -> str:
        """The name of the lock in the store, with the prefix of the locker."""
        return self._native.name

    @property
    def token(self) -> int | None:
        """The fencing token: larger than that of every earlier holder. Send it with each protected
        write. ``None`` if the store has none."""
        return self._native.token

    @property
    def owner(self) -> str:
        """The name of this holder, as other clients read it."""
        return self._native.owner

    @property
    def crashed_holder(self) -> Holder | None:
        """The previous holder, if it did not release the lock: its work may be incomplete."""
        crashed = self._native.crashed
        return None if crashed is None else _engine.holder(self.name, crashed)

    @property
    def expires_at(self) -> datetime | None:
        """When the validity ends unless the lock is renewed. ``None`` if locks do not expire."""
        at = self._native.expires_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    @property
    def lost(self) -> Lost | None:
        """The loss, or ``None`` while the lock is held. A released guard has the reason
        "released"."""
        lost = self._native.lost()
        return None if lost is None else Lost._of(lost)

    @property
    def stopping(self) -> bool:
        """Whether the work has to stop: after the loss, or ``grace`` before it if renewals fail."""
        return self._native.stopping()

    def remaining(self) -> float | None:
        """Returns the seconds until the validity ends unless the lock is renewed. ``None`` if locks
        do not expire, 0 after the loss."""
        return self._native.remaining()

    def check(self) -> None:
        """Raises ``LockLost`` unless the lock is still held. It reads clocks and makes no request,
        so call it before every step that must not happen twice."""
        lost = self._native.lost()
        if lost is not None:
            raise self._lost_error(lost)

    def on_lost(self, callback: Callable[[Lost], None]) -> None:
        """Calls ``callback`` once when the lock is lost, in the thread "onelock-events". A release
        is no loss. It replaces an earlier callback."""
        self._callback.append(callback)
        _engine.process().on_lost[self._native.key] = self
        lost = self._native.lost()
        if lost is not None and lost["reason"] != "released":
            # The event may have passed before the callback was there.
            self._tell(Lost._of(lost))

    def _tell(self, lost: Lost) -> None:
        try:
            callback = self._callback.pop()
        except IndexError:
            return
        callback(lost)

    def _lost_error(self, lost: dict[str, Any]) -> OnelockError:
        if lost["reason"] == "forked":
            return OnelockError(
                f"{lost['text']}; acquire the lock in this process",
                kind="forked",
                name=self.name,
                store=self._core.store,
            )
        return LockLost(Lost._of(lost), self._core.store)

    def _note_released(self) -> None:
        self._is_released = True
        self._callback.clear()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self._core.store}, token {self.token}>"

    def __reduce__(self) -> Any:
        raise TypeError("a guard belongs to its process and cannot be pickled or copied; pass guard.token")

    def __del__(self) -> None:
        # After a failed construction, and while Python exits, there is nothing to say.
        if getattr(self, "_is_released", True) or sys is None or sys.is_finalizing() or not self._native.is_ours:
            return
        native = self._native
        if native.lost() is None:
            warnings.warn(
                f'the lock "{native.name}" was not released; it is released now, in the background',
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        native.abandon()


class Guard(GuardBase):
    """A held lock: valid until it is released or lost.

    It belongs to the process that acquired it, and any thread of that process may use it.
    """

    def ensure(self, at_least: Duration) -> None:
        """Renews the lock if less than ``at_least`` of its validity is left.

        Raises ``LockLost`` if the lock is lost, ``ConfigError`` if no lease is that long, and
        ``StoreError`` if the store fails.
        """
        self.check()
        _engine.run(lambda: self._native.ensure(seconds("at_least", at_least)))

    def release(self) -> bool:
        """Releases the lock. Returns whether it was held until now; ``False`` after a loss, and when
        it was released before.

        Raises ``StoreError`` if the store did not confirm it after three attempts. A further one
        goes on in the background.
        """
        self._note_released()
        try:
            released: bool = _engine.run(self._native.release)
        except BaseException:
            self._native.abandon()
            raise
        return released

    def each(self, iterable: Iterable[T]) -> Iterator[T]:
        """Yields the items, and checks the lock before each: the loop stops when it is lost."""
        for item in iterable:
            self.check()
            yield item

    def sleep(self, duration: Duration) -> None:
        """Sleeps, and raises ``LockLost`` as soon as the lock is lost."""
        self.wait_lost(duration)
        self.check()

    def wait_lost(self, timeout: Duration | None = None) -> Lost | None:
        """Waits until the lock is lost or released. Returns ``None`` after ``timeout``."""
        limit = None if timeout is None else seconds("timeout", timeout)
        op = _engine.start(self._native.wait_lost)
        try:
            return Lost._of(op.take()) if _engine.wait_for(op, limit) else None
        finally:
            op.cancel()

    def __enter__(self) -> Guard:
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error, "raise")

    def _leave(self, error: BaseException | None, lost_at_exit: str) -> None:
        """Ends a ``with`` block: releases, and raises if the lock was lost meanwhile."""
        if not self._native.is_ours:
            return
        lost = None if self._is_released else self._native.lost()
        try:
            was_held = self._is_released or self.release()
        except OnelockError as failed:
            # The work is done. The release goes on in the background, or the ttl ends the lock.
            log.warning("%s", failed)
            was_held = True
        leave(self, was_held, lost, error, lost_at_exit)


def leave(
    guard: GuardBase, was_held: bool, lost: dict[str, Any] | None, error: BaseException | None, lost_at_exit: str
) -> None:
    """Raises, or reports, that the lock was lost before the end of a ``with`` block."""
    if was_held and lost is None:
        return
    if lost is None:
        text = f'the lock "{guard.name}" was lost: the store had no record of it at its release'
        lost = {"name": guard.name, "token": guard.token, "reason": "record_gone", "text": text}
        lost = {**lost, "holder": None, "parent": None}
    failed = guard._lost_error(lost)
    if isinstance(error, LockLost):
        return
    if error is None and lost_at_exit == "raise":
        raise failed
    if error is not None:
        error.add_note(f"onelock: {failed}")
    log.warning("%s; it was noticed at the end of the block", failed)
