"""Relays of tests, whose budget suffices unless it is what they test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.money import COIN
from backend.services.transactions.relays import Relays

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.ports.chain import Chain


def relays_of(database: Database, chain: Chain, lane: Account, budget: int = COIN) -> Relays:
    return Relays(database, chain, lane, budget, lambda: datetime.now(UTC))
