"""One lock API over files, EFS, Redis, DynamoDB, PostgreSQL and object stores.

::

    import onelock

    locker = onelock.Locker("redis://cache.internal")
    with locker.lock("nightly-etl") as guard:
        for part in guard.each(parts):
            load(part, guard.token)
"""

from ._aio import AsyncGuard, AsyncLocker
from ._errors import (
    ConfigError,
    LockHeld,
    LockLost,
    OnelockError,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotReady,
    StorePermission,
    StoreUnavailable,
    UnsupportedError,
)
from ._guard import Guard
from ._lock import Lock
from ._locker import Locker
from ._logging import enable_logging
from ._onelock import __version__
from ._options import LockOptions
from ._types import Finding, Held, Holder, Listing, Lost, PastHolder, Timing

__all__ = [
    "AsyncGuard",
    "AsyncLocker",
    "ConfigError",
    "Finding",
    "Guard",
    "Held",
    "Holder",
    "Listing",
    "Lock",
    "LockHeld",
    "LockLost",
    "LockOptions",
    "Locker",
    "Lost",
    "OnelockError",
    "PastHolder",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreNotReady",
    "StorePermission",
    "StoreUnavailable",
    "Timing",
    "UnsupportedError",
    "__version__",
    "enable_logging",
]
