"""The exceptions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._types import Holder, Lost

__all__ = [
    "ConfigError",
    "LockHeld",
    "LockLost",
    "OnelockError",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreNotReady",
    "StorePermission",
    "StoreUnavailable",
    "UnsupportedError",
]


class OnelockError(Exception):
    """The base of all exceptions of this package.

    Its text is one line that says what failed, why, and what to do.
    """

    kind: str
    """One word: "config", "unavailable", "timeout", "held", "lost" and others."""
    operation: str | None
    """What failed: "open", "acquire", "renew", "release", "inspect", "list" or "break"."""
    name: str | None
    """The name of the lock."""
    store: str | None
    """The store, without secrets."""
    retryable: bool
    """Whether a retry can help."""
    ambiguous: bool
    """Whether the request may have taken effect although it failed."""

    def __init__(
        self,
        message: str,
        *,
        kind: str = "other",
        operation: str | None = None,
        name: str | None = None,
        store: str | None = None,
        retryable: bool = False,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.operation = operation
        self.name = name
        self.store = store
        self.retryable = retryable
        self.ambiguous = ambiguous

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception with arguments by keyword does not survive a process pool by itself.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[OnelockError], args: tuple[Any, ...], fields: dict[str, Any]) -> OnelockError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class ConfigError(OnelockError, ValueError):
    """An option, a name or the config string is wrong."""


class UnsupportedError(OnelockError):
    """The store, as configured, cannot do this."""


class StoreError(OnelockError):
    """The store failed. Whether the lock is held elsewhere is unknown."""


class StoreUnavailable(StoreError, ConnectionError):
    """The store cannot be reached, does not answer in time, or refuses because of too many
    requests."""


class StorePermission(StoreError, PermissionError):
    """The store denied permission."""


class StoreNotReady(StoreError):
    """The directory or the table of the locks is missing or unsuitable."""


class StoreFull(StoreError):
    """The store is full, read-only, or a quota was reached."""


class StoreCorrupt(StoreError):
    """A record in the store is corrupt."""


class LockHeld(OnelockError, TimeoutError):
    """Another client holds the lock, and the time to wait for it is over."""

    holder: Holder
    """Who holds the lock."""

    def __init__(self, name: str, holder: Holder, store: str | None = None) -> None:
        message = f'the lock "{name}" is held by {holder}'
        super().__init__(message, kind="held", operation="acquire", name=name, store=store, retryable=True)
        self.holder = holder


class LockLost(OnelockError):
    """The lock was lost: the work that it protected must stop."""

    lost: Lost
    """The loss."""
    reason: str
    """One word: "expired", "taken", "broken", "unreachable", "frozen" and others."""
    token: int | None
    """The fencing token of the acquisition that was lost."""
    holder: Holder | None
    """The new holder, if the store named one."""

    def __init__(self, lost: Lost, store: str | None = None) -> None:
        super().__init__(lost.text, kind="lost", name=lost.name, store=store)
        self.lost = lost
        self.reason = lost.reason
        self.token = lost.token
        self.holder = lost.holder


_CLASSES: dict[str, type[OnelockError]] = {
    "config": ConfigError,
    "unsupported": UnsupportedError,
    "permission_denied": StorePermission,
    "store_not_ready": StoreNotReady,
    "unavailable": StoreUnavailable,
    "timeout": StoreUnavailable,
    "throttled": StoreUnavailable,
    "limit": StoreFull,
    "full": StoreFull,
    "corrupt": StoreCorrupt,
}


def from_native(fields: dict[str, Any]) -> OnelockError:
    """Makes the exception of an error of the library."""
    from ._types import Lost

    causes: list[str] = fields.pop("causes")
    lost = fields.pop("lost")
    message: str = fields.pop("message")
    if lost is not None:
        error: OnelockError = LockLost(Lost._of(lost), fields["store"])
    else:
        error = _CLASSES.get(fields["kind"], OnelockError)(message, **fields)
    cause: Exception | None = None
    for text in reversed(causes):
        outer = OnelockError(text)
        outer.__cause__ = cause
        cause = outer
    error.__cause__ = cause
    return error
