from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from backend.api.schemas.common import AccountField, HashField, Micro, PreparedTransactionView, Schema, View
from backend.domain.ids import Account, Hash32
from backend.domain.transactions import PreparedTransaction
from backend.services.channels.channels import ChannelView as Channel
from backend.services.channels.deposits import Grant, PreparedDeposit, RelayedDeposit, SessionTerms

UnixSeconds = Annotated[int, Field(ge=0, lt=1 << 63)]


class SessionKeyView(View):
    """A session key. `is_held`: the gateway holds it, so at most `cap` is at risk here."""

    key: str
    cap: Micro
    expiry: int
    is_revoked: bool
    is_held: bool


class ChannelView(View):
    """Amounts in micro-units. `cap`: where the best voucher or session key lets collection end; `thawed_at`:
    unix seconds from when on `thawing` can be withdrawn, zero while nothing thaws; `voucher_domain`: of its
    vouchers, by EIP-712.
    """

    id: str
    payer: str
    operator: str
    collector: str
    balance: Micro
    thawing: Micro
    thawed_at: int
    collected: Micro
    charged: Micro
    reserved: Micro
    cap: Micro
    available: Micro
    sessions: list[SessionKeyView]
    voucher_domain: dict[str, Any]

    @classmethod
    def of(cls, channel: Channel) -> ChannelView:
        line = channel.standing
        sessions = [
            SessionKeyView(
                key=grant.key,
                cap=grant.cap,
                expiry=grant.expiry,
                is_revoked=grant.revoked_at is not None,
                is_held=grant.key in channel.held_keys,
            )
            for grant in channel.grants
        ]
        return cls(
            id=channel.id,
            payer=channel.payer,
            operator=channel.operator,
            collector=channel.collector,
            balance=line.balance,
            thawing=line.thawing,
            thawed_at=channel.thawed_at,
            collected=line.collected,
            charged=line.charged,
            reserved=line.reserved,
            cap=line.authorised,
            available=line.available,
            sessions=sessions,
            voucher_domain=channel.voucher_domain.fields,
        )


class SessionTermsBody(Schema):
    """`cap` in micro-units on the channel's cumulative; left out: all that the deposit makes available.
    `key`: a session key that the client keeps, and signs vouchers with; left out: the gateway holds one.
    """

    expiry: UnixSeconds
    cap: Micro | None = None
    key: AccountField | None = None

    def terms(self) -> SessionTerms:
        return SessionTerms(self.expiry, self.cap, Account(self.key) if self.key else None)


class DepositRequest(Schema):
    """`units`: token units (not micro-units). `session`: grant a session key with it."""

    units: Micro
    session: SessionTermsBody | None = None


class GrantBody(Schema):
    key: AccountField
    cap: Micro
    expiry: UnixSeconds

    def grant(self) -> Grant:
        return Grant(Account(self.key), self.cap, self.expiry)

    @classmethod
    def of(cls, grant: Grant) -> GrantBody:
        return cls(key=grant.key, cap=grant.cap, expiry=grant.expiry)


class RelayBody(Schema):
    units: Micro
    grant: GrantBody
    salt: HashField
    valid_before: UnixSeconds

    @classmethod
    def of(cls, relay: RelayedDeposit) -> RelayBody:
        grant = GrantBody.of(relay.grant)
        return cls(units=relay.units, grant=grant, salt=relay.salt, valid_before=relay.valid_before)

    def deposit(self) -> RelayedDeposit:
        return RelayedDeposit(self.units, self.grant.grant(), Hash32(self.salt), self.valid_before)


class RelayDepositRequest(Schema):
    """`relay` as the preparation gave it, and the wallet's signature of its `typed_data`."""

    relay: RelayBody
    signature: str


class PreparedDepositView(View):
    """`relay` and `typed_data` are null where the payment token takes no authorisation by signature: then the
    payer sends `transactions`.
    """

    channel_id: str
    transactions: list[PreparedTransactionView]
    relay: RelayBody | None
    typed_data: dict[str, Any] | None

    @classmethod
    def of(cls, prepared: PreparedDeposit) -> PreparedDepositView:
        return cls(
            channel_id=prepared.channel_id,
            transactions=[PreparedTransactionView.of(transaction) for transaction in prepared.transactions],
            relay=None if prepared.relay is None else RelayBody.of(prepared.relay),
            typed_data=prepared.typed_data,
        )


class PreparedGrantView(View):
    grant: GrantBody
    nonce: Micro
    typed_data: dict[str, Any]


class RelayGrantRequest(Schema):
    grant: GrantBody
    nonce: Micro
    signature: str


class RevokeRequest(Schema):
    key: AccountField


class PreparedRevocationView(PreparedTransactionView):
    """To send, or `typed_data` to sign and have relayed with its `nonce`."""

    nonce: Micro
    typed_data: dict[str, Any]

    @classmethod
    def by(
        cls, transaction: PreparedTransaction, nonce: int, typed_data: dict[str, Any]
    ) -> PreparedRevocationView:
        plain = PreparedTransactionView.of(transaction).model_dump()
        return cls(**plain, nonce=nonce, typed_data=typed_data)


class RelayRevocationRequest(Schema):
    key: AccountField
    nonce: Micro
    signature: str


class ThawRequest(Schema):
    """Micro-units; 0 ends a thaw."""

    amount: Micro


class VoucherRequest(Schema):
    """A signed `Voucher`; `waived_until` is its `from`.

    It may leave unpaid what is finally settled, and answers right after that by which a batch was convicted:
    these end the line until they are waived, and a refusal says how far (`waivable`). Later vouchers repeat
    it until that is settled.
    """

    waived_until: Micro = 0
    max_cumulative: Micro
    signature: str
