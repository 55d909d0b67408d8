"""Fixtures for tests of code that takes locks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ._locker import Locker
from ._onelock import TestStore

__all__ = ["MemoryLocker", "onelock_dir", "onelock_memory"]


class MemoryLocker(Locker):
    """A locker on a store of one test, which the test can disturb."""

    def __init__(self, store: TestStore, **options: Any) -> None:
        super().__init__(store.url, **options)
        self._test_store = store

    def lose(self, name: str) -> None:
        """Takes the lock away from its holder, as a store that loses its data would."""
        self._test_store.lose(name)

    def held_by(self, name: str, owner: str) -> None:
        """Lets another client of this name hold the lock, until ``free``."""
        self._test_store.hold(name, owner)

    def free(self, name: str) -> None:
        """Lets the other client release the lock."""
        self._test_store.free(name)

    def fail_next(self, operation: str, kind: str = "unavailable") -> None:
        """Makes the next request of ``operation`` fail: "acquire", "renew", "release" and others."""
        self._test_store.fail_next(operation, kind)

    def never_reply_next(self, operation: str) -> None:
        """Loses the reply of the next request of ``operation``, which takes effect."""
        self._test_store.never_reply_next(operation)

    def requests(self, operation: str) -> int:
        """Returns how many requests of ``operation`` were sent."""
        return self._test_store.sent(operation)


@pytest.fixture
def onelock_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryLocker]:
    """A locker on a store in memory of this test. ``$ONELOCK_URL`` names the store meanwhile."""
    store = TestStore()
    monkeypatch.setenv("ONELOCK_URL", store.url)
    monkeypatch.delenv("ONELOCK_URL_FILE", raising=False)
    try:
        yield MemoryLocker(store)
    finally:
        store.close()


@pytest.fixture
def onelock_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locker:
    """A locker on files in a directory of this test. ``$ONELOCK_URL`` names it meanwhile."""
    url = f"file://{tmp_path / 'locks'}"
    monkeypatch.setenv("ONELOCK_URL", url)
    monkeypatch.delenv("ONELOCK_URL_FILE", raising=False)
    return Locker(url)
