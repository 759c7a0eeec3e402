"""Real batches that pay one account as a contributor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account
    from tests.integration.api.conftest import Api

CONTRIBUTION = 2
"""Index of the account's contribution in each datanet."""


def paying(contributor: Account, folder: Path) -> SettlementHarness:
    """A market in which this account contributed to every datanet."""
    harness = SettlementHarness(folder, max_price=500_000)
    contributor_of = harness.market.contributor_of

    def find(snapshot: Any, index: int) -> Any:
        found = contributor_of(snapshot, index)
        return contributor if found and index == CONTRIBUTION else found

    harness.market.contributor_of = find  # type: ignore[method-assign]
    return harness


def serve_earnings(api: Api, app: Any, harness: SettlementHarness) -> None:
    """Have an API serve what the batches of a harness credit."""
    app.state.services = replace(
        api.installation.services, earnings=harness.earnings(), earned_receipts=harness.earned_receipts()
    )
