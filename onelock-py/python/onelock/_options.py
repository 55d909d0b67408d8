"""Options: their types, and their forms in config strings and calls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, TypedDict, Union, cast

from ._errors import ConfigError

Duration = Union[int, float, timedelta]
"""Seconds, or a ``timedelta``."""


class CallOptions(TypedDict, total=False):
    """The options of a lock, except the deadline. Durations are seconds or a ``timedelta``."""

    ttl: Duration
    """How long the store keeps the lock without a renewal. Default: 30 s. No effect on files."""
    margin: Duration
    """How long before the end of the lease the guard's validity ends."""
    renew: Literal["auto", "manual"] | Duration
    """When the lease is renewed. Default: "auto", every third of the ttl."""
    grace: Duration
    """How long before the end of the validity ``stopping`` is true, if renewals keep failing."""
    owner: str
    """The name of the holder, which other clients can read. Default: host, pid, a random part."""
    data: bytes | str
    """What other clients can read while the lock is held."""
    min_hold: Duration
    """How long the lock stays held at least, also if it is released earlier."""
    max_hold: Duration
    """How long the lock may be held; after that it is lost although renewals succeed."""
    shared: bool
    """Many readers, no writer: the lock is held together with others that ask for ``shared``."""
    permits: int
    """At most so many holders. All clients of a name must pass the same number."""
    hand_over: int
    """How many times in a row a release passes the lock to the next waiter of this locker, without
    a request to the store. Default: 0, at most 1,000. No effect without the capability
    "hand-over"."""
    fair: bool
    """First come, first served: other clients do not overtake this waiter. Default: that of the
    locker. ``UnsupportedError`` without the capability "fair"."""


class LockOptions(CallOptions, total=False):
    """The options of one acquisition."""

    deadline: Duration
    """The time until the caller ends, such as that of a Lambda invocation. No lease outlives it."""


_DURATIONS = ("ttl", "margin", "grace", "min_hold", "max_hold", "deadline")
_COMMON_DURATIONS = ("ttl", "margin", "renew", "grace", "min_hold", "max_hold")
_NAMES = frozenset(LockOptions.__annotations__)


def seconds(what: str, value: object) -> float:
    """Returns a duration in seconds, or raises an error that names the option."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} must be seconds or a timedelta, not {value!r}", kind="config")
    number = float(value) if abs(value) < 1e15 else math.inf
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{what}={value!r} is no duration; pass seconds, zero or more", kind="config")
    return number


def wait_seconds(wait: Duration | None) -> float | None:
    """Returns how long to wait. ``None`` waits for as long as it takes."""
    return None if wait is None else seconds("wait", wait)


def of_lock(options: dict[str, Any]) -> dict[str, Any]:
    """Checks the options of one acquisition. An option that is ``None`` keeps its default."""
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _NAMES:
            raise ConfigError(_unknown(name), kind="config")
        if value is None:
            continue
        if name in _DURATIONS or (name == "renew" and not isinstance(value, str)):
            value = seconds(name, value)
        elif name == "data":
            value = value.encode() if isinstance(value, str) else value
            _check(name, value, bytes, "bytes or a str")
        elif name in ("owner", "renew"):
            _check(name, value, str, "a str")
        elif name in ("shared", "fair"):
            _check(name, value, bool, "True or False")
        elif name in ("permits", "hand_over"):
            _check(name, value, int, "a number")
        checked[name] = value
    if checked.get("shared") and "permits" in checked:
        raise ConfigError("a lock is either shared or one of several permits; leave one out", kind="config")
    return checked


def of_store(options: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the options of a store as those of its config string."""
    return [(name, _text(name, value)) for name, value in options.items() if value is not None]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    is_number = isinstance(value, (int, float))
    if isinstance(value, timedelta) or (is_number and name in _COMMON_DURATIONS):
        # Whole units, as config strings have them.
        return f"{round(seconds(name, value) * 1e6)}us"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(str(part) for part in cast("Iterable[object]", value))
    if isinstance(value, (str, int)):
        return str(value)
    raise ConfigError(f"{name}={value!r} is no value of an option; pass a str", kind="config")


def _check(name: str, value: object, kind: type, shown: str) -> None:
    # True is an int, and no number.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} must be {shown}, not {value!r}", kind="config")


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _NAMES, 1)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    if name == "mode":
        hint = "; pass shared=True or permits=N."
    return f'there is no option "{name}" of a lock{hint} Known: {", ".join(sorted(_NAMES))}'
