"""An earner's calls: claim what final batches credited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.client.signing import AskedCall, Chosen, Statement
from backend.domain.ids import Account
from backend.domain.money import AMOUNT, in_dollars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.client.api import ApiClient


def claim(client: ApiClient, earning: Mapping[str, Any], account: Account, *, is_own_gas: bool) -> None:
    """Claim an account's earnings from one operator, an item of `/v1/earnings`. They are paid to its payout
    wallet. The operator sends the claim, or with `is_own_gas` this wallet.
    """
    operator = Account(earning["operator"])
    body = {"operator": operator, "account": account}
    if not is_own_gas:
        client.wait_confirmed(client.post("/v1/claims/relay", body))
        return
    terms = (
        ("amount", f"{in_dollars(AMOUNT.read(earning['claimable']))}, as the market states it"),
        ("from", f"operator {operator}"),
        ("to", f"the payout wallet of {account}"),
    )
    header = Chosen(fixed={"operator": operator})
    request = {"header": header, "account": account, "opening": Chosen()}
    asked = AskedCall(Statement("Claim earnings", terms), "Settlement", "claim", {"request": request})
    client.wallet.send(asked, client.post("/v1/claims/prepare", body))
