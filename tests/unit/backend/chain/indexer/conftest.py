from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.databases import chain_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.db.unit_of_work import Database


@pytest.fixture(autouse=True)
def _both_ways_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chains too are read by ranges, apart from their newest blocks."""
    monkeypatch.setattr("backend.chain.indexer.NEWEST_BLOCKS", 2)


@pytest.fixture
def memory() -> Iterator[Database]:
    with chain_database() as database:
        yield database
