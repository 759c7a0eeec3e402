from __future__ import annotations

from pydantic import Field

from backend.api.schemas.common import AccountField, Micro, Schema, View
from backend.services.claim import Claimable


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
