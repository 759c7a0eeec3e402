from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from backend.api.schemas.common import (
    INTEGERS_END,
    AccountField,
    Micro,
    PreparedTransactionView,
    Schema,
    View,
)
from backend.services.accounts.claims import Claimable
from backend.services.accounts.payouts import PreparedPayout


class EarningView(View):
    """What the account earned from one operator by its latest final batch. Micro-units, but for `units`."""

    operator: str
    account: str
    cumulative: Micro
    claimed: Micro
    amount: Micro = Field(description="Not claimed yet.")
    units: Micro = Field(description="Token units that a claim moves now.")
    unverifiable: str | None = Field(description="Why this operator's books cannot be checked here, if so.")

    @classmethod
    def of(cls, claimable: Claimable) -> EarningView:
        return cls.model_validate(claimable)


class ClaimRequest(Schema):
    """`account`: whose earnings; anybody may send a claim, the account's payout wallet is paid."""

    operator: AccountField
    account: AccountField | None = None


class PayoutRequest(Schema):
    """`wallet`: where earnings go from then on; the zero address: to the account itself."""

    wallet: AccountField


class PayoutView(View):
    account: str
    wallet: str


class PayoutRelayBody(Schema):
    wallet: AccountField
    nonce: Micro
    deadline: Annotated[int, Field(ge=0, lt=INTEGERS_END, description="Unix seconds.")]


class PreparedPayoutView(View):
    """`transaction` to send, or `typed_data` to sign and have relayed with `relay`."""

    transaction: PreparedTransactionView
    relay: PayoutRelayBody
    typed_data: dict[str, Any]

    @classmethod
    def of(cls, prepared: PreparedPayout) -> PreparedPayoutView:
        return cls(
            transaction=PreparedTransactionView.of(prepared.transaction),
            relay=PayoutRelayBody(wallet=prepared.wallet, nonce=prepared.nonce, deadline=prepared.deadline),
            typed_data=prepared.typed_data,
        )


class RelayPayoutRequest(Schema):
    """`relay` as the preparation gave it, and the account's signature of its `typed_data`."""

    relay: PayoutRelayBody
    signature: str
