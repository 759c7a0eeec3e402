from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from backend.api.schemas.common import (
    INTEGERS_END,
    AccountField,
    Amount,
    PreparedTransactionView,
    Schema,
    Uint128,
    View,
)
from backend.services.accounts.payouts import PreparedPayout


class EarningView(View):
    """Earnings from one operator as of its latest verified final batch."""

    operator: str
    account: str
    cumulative: Amount = Field(description="Earned in all.")
    claimed: Amount
    unclaimed: Amount
    claimable: Amount = Field(description="What a claim pays now: the unclaimed amount in whole token units.")
    unverifiable: str | None = Field(
        description="Why the balances of this operator's latest final batch cannot be verified here, or not "
        "yet; null if they are. The amounts are then those of an earlier one."
    )


class ClaimRequest(Schema):
    """`account`: whose earnings to claim; default: the caller's. Any account may send a claim: it always pays
    the earning account's payout wallet.
    """

    operator: AccountField
    account: AccountField | None = None


class PayoutRequest(Schema):
    """`wallet`: address that receives future claims; the zero address resets it to the account itself."""

    wallet: AccountField


class PayoutView(View):
    account: str
    wallet: str


class PayoutRelayBody(Schema):
    wallet: AccountField
    nonce: Uint128
    deadline: Annotated[int, Field(ge=0, lt=INTEGERS_END, description="Unix seconds.")]


class PreparedPayoutView(View):
    """Send `transaction`, or sign `typed_data` and relay it with `relay`."""

    transaction: PreparedTransactionView
    relay: PayoutRelayBody
    typed_data: dict[str, Any]

    @classmethod
    def of(cls, prepared: PreparedPayout) -> PreparedPayoutView:
        return cls(
            transaction=PreparedTransactionView.model_validate(prepared.transaction),
            relay=PayoutRelayBody(wallet=prepared.wallet, nonce=prepared.nonce, deadline=prepared.deadline),
            typed_data=prepared.typed_data,
        )


class RelayPayoutRequest(Schema):
    """`relay` as returned by the preparation, and the account's signature of its `typed_data`."""

    relay: PayoutRelayBody
    signature: str
