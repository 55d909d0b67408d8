"""What the package returns: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

__all__ = ["Finding", "Held", "Holder", "Listing", "Lost", "PastHolder", "Timing"]


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as far as the store can say. A field that it does not know is ``None``."""

    name: str
    """The name of the lock."""
    owner: str | None = None
    """The holder's name for itself."""
    token: int | None = None
    """The holder's fencing token."""
    since: datetime | None = None
    """When it acquired the lock, by the clock of the store."""
    held_for: float | None = None
    """How long it had held the lock when the store answered, in seconds, by the store's clock."""
    expires_in: float | None = None
    """How long the store keeps the lock unless it is renewed, in seconds."""
    data: bytes | None = None
    """What the holder left for others to read."""
    version: str | None = None
    """Identifies this state of the record, for ``break_lock``."""
    foreign: str | None = None
    """What kind of lock of another program this is, if it is none of onelock."""
    mode: str = "exclusive"
    """"exclusive", "shared" or "permit"."""
    permits: int | None = None
    """How many permits the name has, in mode "permit"."""
    others: tuple[Holder, ...] = ()
    """The other holders of a lock that has several; at most 15."""
    count: int = 1
    """How many hold the lock."""
    text: str = ""
    """One line for people, as ``str()`` gives it."""

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _of(cls, name: str, fields: dict[str, Any]) -> Holder:
        changed: dict[str, Any] = {
            "since": _time(fields["since"]),
            "others": tuple(cls._of(name, other) for other in fields["others"]),
        }
        return cls(name=name, **{**fields, **changed})


@dataclass(frozen=True)
class Held:
    """Another client holds the lock. It is false, so ``if guard := locker.try_acquire(name)`` works."""

    holder: Holder

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class Lost:
    """The loss of a lock."""

    name: str
    """The name of the lock."""
    token: int | None
    """The fencing token of the acquisition that was lost."""
    reason: str
    """One word: "expired", "taken", "record_gone", "broken", "unreachable", "frozen",
    "clock_jumped", "file_lock", "max_hold", "deadline", "released" or "forked"."""
    text: str
    """One line for people, as ``str()`` gives it."""
    holder: Holder | None = None
    """The new holder, if the store named one."""
    parent: int | None = None
    """The process that holds the lock, if this process was forked from it."""

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Lost:
        holder = fields["holder"]
        changed: dict[str, Any] = {"holder": holder and Holder._of(fields["name"], holder)}
        return cls(**{**fields, **changed})


@dataclass(frozen=True)
class PastHolder:
    """The last holder of a lock that is free."""

    holder: Holder
    end: str
    """"released", "crashed" or "broken"."""
    broken_by: str | None = None
    """The operator that broke the lock."""
    ended_at: datetime | None = None
    """When it ended, by the clock of the store."""


@dataclass(frozen=True)
class Finding:
    """One fact about a store, and what follows from it."""

    level: str
    """"good", "note", "warning", or "unfit": do not use the store for locks as it is."""
    subject: str
    text: str
    advice: str | None = None

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.level}: {self.subject}: {self.text}{advice}"


@dataclass(frozen=True)
class Timing:
    """The timing of locks without options of their own, in seconds."""

    ttl: float | None
    """How long the store keeps a lock without a renewal. ``None`` if the store has no ttl."""
    lease: float | None
    """The ttl, or the store's own lease. ``None`` if locks do not expire."""
    margin: float
    """The time between the end of a guard's validity and the end of the lease."""
    renew_every: float | None
    """The time between two renewals. ``None`` with ``renew="manual"``."""
    grace: float
    """How long before the end of the validity the work is asked to stop if renewals fail."""
    attempt_timeout: float
    """The time limit of one request."""


T = TypeVar("T")


class Listing(list[T], Generic[T]):
    """A list of holders, with the entries of the store that could not be read."""

    odd: tuple[str, ...] = ()
    """The place and the problem of each such entry, at most 100."""
    odd_count: int = 0
    """How many such entries there are."""
