"""Checks that the contracts refer to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.deployment.checks.reader import Finding, error_at
from backend.deployment.contracts import CONTRACTS, references_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.deployment.checks.reader import MarketReader


def check_references(market: MarketReader) -> Iterator[Finding]:
    for contract in CONTRACTS:
        for getter, named in references_of(contract).items():
            found = market.call(contract, getter)
            if found != market.address(named):
                yield error_at(contract, f"{getter} is {found}, not the {named} at {market.address(named)}")
