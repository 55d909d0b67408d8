"""Log records of the native half."""

from __future__ import annotations

import logging

from . import _engine, _onelock

__all__ = ["enable_logging"]


def enable_logging(level: int | str | None = None) -> None:
    """Passes log records of the native half to the loggers ``onelock.*``.

    ``level`` is the least level that is recorded, as in ``logging``. Default: that of the logger
    ``onelock``. The thread "onelock-events" passes the records on; at most 1,024 wait for it, and
    the oldest are dropped. Losses of locks are logged without this call.
    """
    if level is None:
        level = logging.getLogger("onelock").getEffectiveLevel()
    elif isinstance(level, str):
        level = logging.getLevelNamesMapping()[level.upper()]
    _onelock.enable(min(max(level, 1), 255))
    _engine.report()
