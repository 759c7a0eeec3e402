"""`loraledger claim` at several operators."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from backend.cli import earnings
from backend.client.errors import ApiError
from backend.domain.errors import Unavailable
from backend.domain.money import AMOUNT, UNIT
from tests.support.market import some_account

SMALL, LARGE = some_account("an operator that owes little"), some_account("an operator that owes much")
TOO_SMALL = ApiError("less than 0.00001 dollars", details={"code": "nothing_to_claim"})
SPENT = ApiError("the budget is spent", details={"code": "relay_budget_spent"})


class Market:
    """Two operators owe the account; the first one's claim ends with an error."""

    def __init__(self, error: Exception) -> None:
        self.wallet = SimpleNamespace(account=some_account("creator"))
        self._error = error

    def list_all(self, _path: str, **_: Any) -> list[dict[str, Any]]:
        owed = ((SMALL, 5 * UNIT), (LARGE, 50_000_000 * UNIT))
        return [
            {"operator": operator, "claimable": AMOUNT.render(amount), "unverifiable": None}
            for operator, amount in owed
        ]

    def post(self, path: str, body: Any) -> Any:
        assert path == "/v1/claims/relay"
        if body["operator"] == SMALL:
            raise self._error
        return {"transaction_id": 1}

    def wait_confirmed(self, _queued: Any) -> None: ...


def claim(error: Exception) -> None:
    actor = SimpleNamespace(connect=lambda: nullcontext(Market(error)))
    earnings.claim.__wrapped__(actor=actor)  # type: ignore[attr-defined]


def test_what_is_too_small_to_relay_is_left_and_the_rest_is_claimed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    claim(TOO_SMALL)
    said = capsys.readouterr()
    assert said.out == f"50 dollars claimed from {LARGE}\n"
    small = "too little for the operator to relay; --own-gas claims it"
    assert said.err == f"0.000005 dollars not claimed from {SMALL}: {small}\n"


@pytest.mark.parametrize(
    ("error", "details"),
    [(SPENT, "  code: relay_budget_spent\n"), (Unavailable("the market is not reachable"), "")],
)
def test_a_claim_that_fails_does_not_hold_back_the_others(
    error: Exception, details: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        claim(error)
    assert ended.value.exit_code == 1
    said = capsys.readouterr()
    assert said.out == f"50 dollars claimed from {LARGE}\n"
    assert said.err == f"0.000005 dollars not claimed from {SMALL}: {error}\n{details}"
