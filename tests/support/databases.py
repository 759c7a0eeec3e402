"""Databases in memory that are made fast enough for a property's every example."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.unit_of_work import Database

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def chain_database() -> Iterator[Database]:
    """A fresh one with the chain's tables only."""
    load_all()
    database = Database.open("sqlite://")
    tables = [table for name, table in Base.metadata.tables.items() if name.startswith("chain_")]
    Base.metadata.create_all(database.engine, tables=tables)
    yield database
    database.close()
