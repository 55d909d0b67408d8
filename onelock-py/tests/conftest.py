"""The stores of the tests. The Rust test that runs pytest starts the servers and names them here."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import onelock
import pytest

STORES = ["memory", "files", "redis", "dynamodb"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A config string of each store, with names of its own."""
    return store_url(request.param, tmp_path)


def store_url(store: str, directory: Path) -> str:
    prefix = uuid.uuid4().hex
    if store == "memory":
        return f"memory:?prefix={prefix}"
    if store == "files":
        return f"file://{directory}/locks"
    base = os.environ[f"ONELOCK_TEST_{store.upper()}"]
    return f"{base}{'&' if '?' in base else '?'}prefix={prefix}"


@pytest.fixture
def locker(url: str) -> Iterator[onelock.Locker]:
    with onelock.Locker(url) as locker:
        yield locker


@pytest.fixture
def redis_url(tmp_path: Path) -> str:
    return store_url("redis", tmp_path)


@pytest.fixture(params=["files", "redis", "dynamodb"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A config string of each store that processes share."""
    return store_url(request.param, tmp_path)
