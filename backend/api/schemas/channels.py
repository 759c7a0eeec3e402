from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from backend.api.schemas.common import (
    AccountField,
    Amount,
    AmountInput,
    HashField,
    PreparedTransactionView,
    Schema,
    TransactionQueued,
    Uint128,
    View,
)
from backend.domain.ids import Account, Hash32
from backend.domain.money import whole_units
from backend.domain.transactions import PreparedTransaction
from backend.services.channels.channels import ChannelView as Channel
from backend.services.channels.deposits import NO_GRANT, RelayedDeposit, SessionGrant, SessionTerms
from backend.services.channels.moves import MoveTerms

YEAR_10000 = 253_402_300_800
"""Its first second."""


def _check_seconds(instant: int) -> int:
    if instant >= YEAR_10000:
        raise ValueError(f"send seconds since 1970, not milliseconds: {instant} is after the year 9999")
    return instant


UnixSeconds = Annotated[int, Field(ge=0, lt=1 << 63), AfterValidator(_check_seconds)]


class SessionKeyView(View):
    """A session key. `is_custodial`: the gateway holds it, and can spend up to `cap`. `expiry` and
    `revoked_at` in unix seconds: its vouchers can be collected for one thaw after the earlier of them.
    """

    key: str
    cap: Amount
    expiry: int
    is_revoked: bool
    revoked_at: int | None
    is_custodial: bool


class ChannelView(View):
    """`cap`: the highest cumulative that a voucher or session key authorises; `signed`: that of the payer's
    own voucher, which a new one may not lower; `waived_until`: what a new one of the payer has to waive;
    `thawed_at`: unix seconds from which `thawing` can be withdrawn, 0 while nothing thaws; `moving`: part of
    the balance that pending moves take to another collector's channel; `voucher_domain`: the EIP-712 domain
    of the channel's vouchers.
    """

    id: str
    payer: str
    operator: str
    collector: str
    balance: Amount
    thawing: Amount
    thawed_at: int
    moving: Amount
    collected: Amount
    charged: Amount
    reserved: Amount
    cap: Amount
    signed: Amount
    waived_until: Amount
    available: Amount
    sessions: list[SessionKeyView]
    voucher_domain: dict[str, Any]

    @classmethod
    def of(cls, channel: Channel) -> ChannelView:
        balance = channel.balance
        sessions = [
            SessionKeyView(
                key=grant.key,
                cap=grant.cap,
                expiry=grant.expiry,
                is_revoked=grant.revoked_at is not None,
                revoked_at=grant.revoked_at,
                is_custodial=grant.key in channel.held_keys,
            )
            for grant in channel.grants
        ]
        return cls(
            id=channel.id,
            payer=channel.payer,
            operator=channel.operator,
            collector=channel.collector,
            balance=balance.balance,
            thawing=balance.thawing,
            thawed_at=channel.thawed_at,
            moving=balance.moving,
            collected=balance.collected,
            charged=balance.charged,
            reserved=balance.reserved,
            cap=balance.authorised,
            signed=channel.signed,
            waived_until=channel.waived_until,
            available=balance.available,
            sessions=sessions,
            voucher_domain=channel.voucher_domain.fields,
        )


class SessionTermsBody(Schema):
    """`cap`: limit of the channel's cumulative; default: all that the deposit makes available. `key`: a
    session key that the client holds and signs vouchers with; default: the gateway creates and holds one.
    """

    expiry: UnixSeconds
    cap: AmountInput | None = None
    key: AccountField | None = None

    def terms(self) -> SessionTerms:
        return SessionTerms(self.expiry, self.cap, Account(self.key) if self.key else None)


class DepositRequest(Schema):
    """`amount`: a multiple of 0.000001 dollars, the token unit. `session`: a session key to grant with the
    deposit.
    """

    amount: AmountInput
    session: SessionTermsBody | None = None

    @property
    def units(self) -> int:
        """Errors: `InvalidInput`."""
        return whole_units(self.amount, "amount")


class GrantBody(Schema):
    """The grant as it is signed: `cap` in micro-units."""

    model_config = ConfigDict(from_attributes=True)

    key: AccountField
    cap: Uint128
    expiry: UnixSeconds

    def grant(self) -> SessionGrant:
        return SessionGrant(Account(self.key), self.cap, self.expiry)


class RelayBody(Schema):
    """The deposit as it is signed: `units` in token units."""

    model_config = ConfigDict(from_attributes=True)

    units: Uint128
    grant: GrantBody
    salt: HashField
    valid_before: UnixSeconds

    def deposit(self) -> RelayedDeposit:
        return RelayedDeposit(self.units, self.grant.grant(), Hash32(self.salt), self.valid_before)


class RelayDepositRequest(Schema):
    """`relay` as returned by the preparation, and the wallet's signature of its `typed_data`."""

    relay: RelayBody
    signature: str


class PreparedDepositView(View):
    """`relay` and `typed_data` are null where the payment token does not support authorisation by signature;
    the payer then sends `transactions`.
    """

    channel_id: str
    transactions: list[PreparedTransactionView]
    relay: RelayBody | None
    typed_data: dict[str, Any] | None


class PreparedGrantView(View):
    grant: GrantBody
    nonce: Uint128
    typed_data: dict[str, Any]


class RelayGrantRequest(Schema):
    grant: GrantBody
    nonce: Uint128
    signature: str


class RevokeRequest(Schema):
    key: AccountField


class PreparedRevocationView(PreparedTransactionView):
    """Send the transaction, or sign `typed_data` and relay it with `nonce`."""

    nonce: Uint128
    typed_data: dict[str, Any]

    @classmethod
    def of(
        cls, transaction: PreparedTransaction, nonce: int, typed_data: dict[str, Any]
    ) -> PreparedRevocationView:
        prepared = PreparedTransactionView.model_validate(transaction)
        return cls(**dict(prepared), nonce=nonce, typed_data=typed_data)


class RelayRevocationRequest(Schema):
    key: AccountField
    nonce: Uint128
    signature: str


class MoveSessionBody(Schema):
    key: AccountField
    cap: AmountInput
    expiry: UnixSeconds


class MoveRequest(Schema):
    """`new_collector`: settlement contract of the channel that receives. `max_amount`: default: the whole
    balance. `session`: a session key to grant in that channel.
    """

    new_collector: AccountField
    max_amount: AmountInput | None = None
    session: MoveSessionBody | None = None

    def grant(self) -> SessionGrant:
        session = self.session
        return (
            NO_GRANT if session is None else SessionGrant(Account(session.key), session.cap, session.expiry)
        )


class MoveBody(Schema):
    """The move as it is signed: `max_amount` in micro-units."""

    model_config = ConfigDict(from_attributes=True)

    new_collector: AccountField
    max_amount: Uint128
    grant: GrantBody
    nonce: Uint128
    deadline: UnixSeconds

    def terms(self) -> MoveTerms:
        grant = self.grant.grant()
        return MoveTerms(Account(self.new_collector), self.max_amount, grant, self.nonce, self.deadline)


class PreparedMoveView(View):
    move: MoveBody
    typed_data: dict[str, Any]


class RelayMoveRequest(Schema):
    """`move` as returned by the preparation, and the wallet's signature of its `typed_data`."""

    move: MoveBody
    signature: str


class MoveQueued(TransactionQueued):
    """`amount`: what moves. It cannot be spent while the transaction is pending."""

    amount: Amount


class ThawRequest(Schema):
    """`amount`: 0 cancels a thaw."""

    amount: AmountInput


class VoucherRequest(Schema):
    """A `Voucher` as it is signed, in micro-units. `waived_until` is its `from`: answers up to this
    cumulative stay unpaid.

    It may cover what is finally settled, and answers directly after that for which a batch was convicted.
    Such answers block the channel until they are waived, and vouchers that do not waive them pay for nothing:
    requests get 402 `waiver_required`. The value is the end of such an answer; the error responses have the
    highest one (`waivable`). Later vouchers repeat `waived_until` until the waiver is settled.
    """

    waived_until: Uint128 = 0
    max_cumulative: Uint128
    signature: str
