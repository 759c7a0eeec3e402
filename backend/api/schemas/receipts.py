from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasPath, Field, model_validator

from backend.api.schemas.common import Amount, HexBytes, Uint128, View
from backend.domain.batch import pack_spans
from backend.domain.hashing import pack_list
from backend.domain.ids import Account
from backend.domain.serving import UNKNOWN_SALT, StoredCharge
from backend.services.receipts.proofs import Inclusion
from backend.services.receipts.receipts import NamedSlice, ReceiptView


class ReceiptBody(View):
    """The EIP-712 `Receipt` as it is signed. Amounts in micro-units."""

    channel_id: str
    cumulative: Uint128
    charge: Uint128
    request_hash: str
    response_hash: str
    slices_hash: str
    prompt_tokens: int
    completion_tokens: int
    attribution_hash: str
    served_at: int


class ReceiptSummary(View):
    """`charge`: that of `receipt`, as an amount. `batch`: number of the batch that settles the receipt; null
    while it is unsettled.
    """

    id: str
    operator: str
    payer: str
    charge: Amount = Field(validation_alias=AliasPath("signed", "receipt", "charge"))
    receipt: ReceiptBody = Field(validation_alias=AliasPath("signed", "receipt"))
    batch: int | None


class ShareBody(View):
    """`contribution` is the index within `datanet`; `contributor`: the account in the registry."""

    position: int = Field(validation_alias=AliasPath("share", "position"))
    ppm: int = Field(validation_alias=AliasPath("share", "ppm"))
    datanet: int | None
    contribution: int
    contributor: str | None


class SliceBody(View):
    """`packed`: the list that the receipt's attribution hash commits to, 0x-hex."""

    version_id: str
    weight_ppm: int
    packed: str
    shares: list[ShareBody]

    @classmethod
    def of(cls, part: NamedSlice) -> SliceBody:
        shares = [ShareBody.model_validate(named) for named in part.shares]
        packed = pack_list([named.share for named in part.shares])
        return cls(
            version_id=part.version_id, weight_ppm=part.weight_ppm, packed="0x" + packed.hex(), shares=shares
        )


class ChargeStamp(View):
    """What a charge has beyond its receipt's fields."""

    id: str
    receipt_by: int = Field(validation_alias=AliasPath("signed", "charge", "receipt_by"))
    signature: str = Field(validation_alias=AliasPath("signed", "signature"))


class ReceiptDetail(ReceiptSummary):
    """Everything needed to verify a receipt offline. `salt` is null for callers other than the payer, and if
    the operator has lost it.
    `signed_charge` is null if the answer was charged by the receipt itself.
    """

    method: str
    slices: list[SliceBody]
    signature: str
    salt: str | None
    batch_state: str | None
    signed_charge: ChargeStamp | None

    @classmethod
    def for_viewer(cls, view: ReceiptView, viewer: Account | None) -> ReceiptDetail:
        stored = view.stored
        return cls(
            **dict(ReceiptSummary.model_validate(stored)),
            method=stored.signed.method,
            slices=[SliceBody.of(part) for part in view.slices],
            signature=stored.signed.signature,
            salt=stored.salt if viewer == stored.payer and stored.salt != UNKNOWN_SALT else None,
            batch_state=view.batch_state,
            signed_charge=None if view.charge is None else ChargeStamp.model_validate(view.charge),
        )


class ChargeBody(View):
    """The EIP-712 `Charge` as it is signed. Amounts in micro-units."""

    channel_id: str
    cumulative: Uint128
    charge: Uint128
    request_hash: str
    response_hash: str
    slices_hash: str
    prompt_tokens: int
    completion_tokens: int
    served_at: int
    receipt_by: int


class ChargedSlice(View):
    version_id: str
    weight_ppm: int


class PendingReceipt(View):
    """A charge, whose receipt is signed by its `receipt_by`. `salt` is null for others than the payer."""

    status: Literal["pending"] = "pending"
    id: str
    operator: str
    payer: str
    charge: Amount = Field(validation_alias=AliasPath("signed", "charge", "charge"))
    signed: ChargeBody = Field(validation_alias=AliasPath("signed", "charge"))
    slices: list[ChargedSlice] = Field(validation_alias=AliasPath("attributed", "slices"))
    signature: str = Field(validation_alias=AliasPath("signed", "signature"))
    salt: str | None

    @classmethod
    def for_viewer(cls, charge: StoredCharge, viewer: Account | None) -> PendingReceipt:
        found = cls.model_validate(charge)
        return found if viewer == charge.payer else found.model_copy(update={"salt": None})


class AccountWeight(View):
    """`account`: null for contributions that this operator's view of the chain does not know."""

    account: str | None
    ppm: int

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        return dict(zip(cls.model_fields, value, strict=True)) if isinstance(value, tuple) else value


class AttributionView(View):
    """`slices` as in the receipt. `accounts`: each contributor's share of the whole answer, over all slices,
    in ppm rounded down, largest first. A slice without shares is attributed to no account.
    """

    receipt_id: str
    method: str
    slices: list[SliceBody]
    accounts: list[AccountWeight]

    @classmethod
    def of(cls, view: ReceiptView) -> AttributionView:
        return cls(
            receipt_id=view.stored.id,
            method=view.stored.signed.method,
            slices=[SliceBody.of(part) for part in view.slices],
            accounts=[AccountWeight.model_validate(pair) for pair in view.weights()],
        )


class OpeningView(View):
    """A leaf's position in a Merkle-sum tree. `value` in micro-units. `path`: its siblings upwards, sum 16
    bytes and hash 32 each.
    """

    index: int
    value: Uint128
    path: HexBytes


class EntryProofView(View):
    """What an account earns from one part of one slice of the receipt: the opening's value."""

    account: str = Field(validation_alias=AliasPath("entry", "account"))
    slice: int = Field(validation_alias=AliasPath("entry", "slice"))
    part: int = Field(validation_alias=AliasPath("entry", "part"))
    opening: OpeningView


class BalanceProofView(View):
    """The total that the operator has credited to the account, up to this batch: the opening's value."""

    account: str
    opening: OpeningView


class ReceiptProofView(View):
    """`header`: Solidity's `BatchHeader`, integers as decimal strings. Its hash is `batch_hash`, which the
    transaction `tx_hash` committed in Settlement. `spans`: the preimage of its `spansHash`. The openings
    lead to its roots; `entries` sum up to the charge.
    """

    batch_hash: str
    batch_state: str
    tx_hash: str
    block_number: int
    header: dict[str, str]
    spans: str
    receipt: OpeningView
    entries: list[EntryProofView]
    balances: list[BalanceProofView]

    @classmethod
    def of(cls, inclusion: Inclusion) -> ReceiptProofView:
        batch, proof = inclusion.batch, inclusion.proof
        return cls(
            batch_hash=batch.hash,
            batch_state=batch.state,
            tx_hash=batch.tx_hash,
            block_number=batch.block_number,
            header={name: str(value) for name, value in proof.header.abi.items()},
            spans="0x" + pack_spans(inclusion.spans).hex(),
            receipt=OpeningView.model_validate(proof.receipt),
            entries=[EntryProofView.model_validate(proven) for proven in proof.entries],
            balances=[BalanceProofView.model_validate(balance) for balance in proof.balances],
        )
