from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from backend.api.schemas.common import Amount, CidOfDigest, HashField, Items, Price, PriceInput, Schema, View
from backend.domain.batch import Header
from backend.domain.content import cid_of
from backend.domain.contribution import ReviewReason
from backend.domain.hashing import record_argument
from backend.domain.ids import Account, Hash32, SnapshotId, VersionId
from backend.domain.money import PPM
from backend.domain.receipt import VersionRecord
from backend.domain.registries import Operator
from backend.services.market.registry import ListedBatch
from backend.services.operator.directory import Availability

Ppm = Annotated[int, Field(ge=0, le=PPM)]
FaultName = Annotated[str, BeforeValidator(lambda fault: fault.name.lower())]


class DatanetView(View):
    id: int
    creator: str
    name: str
    cid: CidOfDigest = Field(validation_alias="cid_digest")
    num_contributions: int


class CreateDatanetRequest(Schema):
    """`description`: Markdown, published with the datanet. `licence`: SPDX expression of the licences that
    the datanet accepts; empty: any.
    """

    name: str
    description: str = ""
    licence: str = ""


class RecordedContribution(View):
    """A contribution in the registry. `is_accepted`: null until the curators decide. `index`: null until they
    first accept it.
    """

    datanet: int
    index: int | None
    contributor: str
    content_hash: str
    cid: CidOfDigest = Field(validation_alias="cid_digest")
    num_rows: int
    is_accepted: bool | None
    reason: int
    recorded_at: int


class ReviewRequest(Schema):
    """`reason`: the rejection code; 0 accepts."""

    reason: ReviewReason


class FreezeRequest(Schema):
    """`count`: freeze the first `count` contributions by index, as accepted now; default: all."""

    count: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None


class PendingSnapshotView(View):
    """The snapshot exists once the transaction is confirmed, unless a curator's decision came first. That
    changes the snapshot and its id: request it again.
    """

    snapshot_id: str
    transaction_id: int


class SnapshotView(View):
    id: str
    datanet: int
    count: int
    accepted_hash: str
    accepted: list[int]
    block_number: int


class BaseOfferView(View):
    """A base model and its prices; null where the operator publishes none. Adapters of whose prices the
    operator earns less than `min_prompt_price` or `min_completion_price`, before the protocol's fee, are not
    served: it earns `operator_ppm` of them, and `creator_ppm` of its own. `training_price` is of charged
    tokens, 0 where training is free, null where the operator trains no adapters of it. `not_served`: kinds of
    adapters and parts of requests that its engines refuse, such as `dora` or `tools`. `weight_format`: as of
    models.
    """

    digest: str
    name: str
    prompt_price: Price | None
    completion_price: Price | None
    min_prompt_price: Price | None
    min_completion_price: Price | None
    training_price: Price | None
    not_served: list[str]
    weight_format: str | None


class CardAgreementView(View):
    """`live_agreement` of models, over all answers of the operator that blocks sampled."""

    mean: float | None
    num_answers: int
    num_missing: int


class OperatorCardView(View):
    """An operator's own description. `active_adapters`: digests of adapters that are loaded in its engines.
    `live_agreement`: null if it samples no answers.
    """

    account: str
    bases: list[BaseOfferView]
    active_adapters: list[str]
    live_agreement: CardAgreementView | None


class OperatorView(View):
    """An operator as registered on the chain. `keys`: its receipt keys, retired ones included."""

    account: str
    endpoint: str
    keys: list[str]
    retired_keys: dict[str, int] = Field(
        description="When each retired receipt key was retired, in unix seconds. Its signatures count for "
        "batches committed before."
    )
    stake: Amount
    card: OperatorCardView | None = Field(
        description="The operator's own description; null while it does not respond."
    )
    latency_ms: int | None = Field(description="Latency of that response; null for this operator.")
    uptime_ppm: int | None = Field(
        description="Share of the last 100 requests that it answered; null before any."
    )

    @classmethod
    def of(cls, operator: Operator, availability: Availability) -> OperatorView:
        return cls(
            account=operator.account,
            endpoint=operator.endpoint,
            keys=list(operator.keys),
            retired_keys={str(key): at for key, at in operator.retired.items()},
            stake=operator.stake,
            card=None if availability.card is None else OperatorCardView.model_validate(availability.card),
            latency_ms=availability.latency_ms,
            uptime_ppm=availability.uptime_ppm,
        )


class ConvictionView(View):
    """Why batches are void: `convicted` is the batch that was proved wrong; all pending ones fell with it."""

    first: int
    convicted: str
    proof: str = Field(description="Function of the contract `Disputes` that voided the batch.")
    fault: FaultName | None = Field(description="The receipt's fault, if the proof is about a receipt.")
    receipt: int | None = Field(description="Index of that receipt in the convicted batch.")
    challenger: str | None = Field(description="The account that earned the reward, if any.")
    tx_hash: str
    block_number: int


class BatchView(View):
    """A batch as its operator committed it. Times are in unix seconds."""

    number: int
    hash: str
    state: str
    open_demands: int = Field(description="Demanded leaves without an answer. With any, it is not final.")
    demand_deadline: int | None = Field(
        description="Earliest deadline of an answer; after it the batch can be voided. Null without demands."
    )
    total: Amount
    cumulative_total: Amount
    num_receipts: int
    committed_at: int
    final_at: int = Field(description="Earliest time at which it can become final; demands can postpone it.")
    final_block: int = Field(description="Earliest block as well; 0 where the profile counts no blocks.")
    slash_up_to: Amount = Field(
        description="Sum up to which the operator's slashes rise if the batch is voided."
    )
    data: str = Field(description="CID of the folder that has its receipts.")
    tx_hash: str
    conviction: ConvictionView | None = Field(description="Why the batch is void; null if it is not.")
    is_refunded: bool = Field(description="Whether the amounts that a void batch collected are refunded.")

    @classmethod
    def of(cls, listed: ListedBatch) -> BatchView:
        batch = listed.batch
        header = Header.from_chain(batch.header)
        return cls(
            number=batch.number,
            hash=batch.hash,
            state=batch.state,
            open_demands=len(listed.open_demands),
            demand_deadline=min((one.deadline for one in listed.open_demands), default=None),
            total=header.total,
            cumulative_total=header.cumulative_total,
            num_receipts=header.receipts_count,
            committed_at=header.committed_at,
            final_at=header.final_at,
            final_block=header.final_block,
            slash_up_to=header.slash_up_to,
            data=cid_of(header.data_digest),
            tx_hash=batch.tx_hash,
            conviction=None if batch.conviction is None else ConvictionView.model_validate(batch.conviction),
            is_refunded=batch.is_refunded,
        )


class VersionRecordBody(Schema):
    """A `VersionRecord` whose creator is the caller."""

    name: str
    adapter_digest: HashField
    cid_digest: HashField
    base_model: HashField
    snapshots: Annotated[Items[HashField], Field(max_length=4)]
    prompt_price: PriceInput
    completion_price: PriceInput
    operator_ppm: Ppm
    creator_ppm: Ppm

    def record(self, creator: Account) -> VersionRecord:
        return VersionRecord(
            creator=creator,
            name=self.name,
            adapter_digest=Hash32(self.adapter_digest),
            cid_digest=Hash32(self.cid_digest),
            base_model=Hash32(self.base_model),
            snapshots=tuple(SnapshotId(Hash32(snapshot)) for snapshot in self.snapshots),
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            operator_ppm=self.operator_ppm,
            creator_ppm=self.creator_ppm,
        )


class VersionView(View):
    """`record`: Solidity's `VersionRecord`, integers as decimal strings. `id` is its hash."""

    id: str
    record: dict[str, str | list[str]]

    @classmethod
    def of(cls, version: VersionId, record: VersionRecord) -> VersionView:
        return cls(id=version, record=record_argument(record))


class TransactionView(View):
    """A transaction that the operator sent. `state`: queued, sent, mined, confirmed or failed. Confirmed: N
    blocks deep, and all other endpoints show its effects.
    """

    id: int
    state: str
    contract: str
    function: str
    hash: str | None
    block_number: int | None
    error: dict[str, Any] | None
