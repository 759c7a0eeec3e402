from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Annotated, Any

from pydantic import Field

from backend.api.schemas.common import HashField, Micro, Schema, View
from backend.domain.batch import Header
from backend.domain.content import cid_of
from backend.domain.contribution import ReviewReason
from backend.domain.ids import Account, Hash32, SnapshotId
from backend.domain.money import PPM
from backend.domain.receipt import VersionRecord
from backend.domain.registries import Contribution, Datanet, Operator, Snapshot
from backend.domain.settlement import Conviction
from backend.domain.transactions import ChainTransaction
from backend.services.market.registry import ListedBatch
from backend.services.operator.directory import Card, Standing

Price = Annotated[int, Field(ge=0, lt=1 << 64)]
Ppm = Annotated[int, Field(ge=0, le=PPM)]


class DatanetView(View):
    id: int
    creator: str
    name: str
    cid: str
    num_contributions: int

    @classmethod
    def of(cls, datanet: Datanet) -> DatanetView:
        return cls(
            id=datanet.id,
            creator=datanet.creator,
            name=datanet.name,
            cid=cid_of(datanet.cid_digest),
            num_contributions=datanet.num_contributions,
        )


class CreateDatanetRequest(Schema):
    """`description`: Markdown, published with the datanet. `licence`: SPDX expression that names the licences
    of contributions that it takes; empty: any.
    """

    name: str
    description: str = ""
    licence: str = ""


class RecordedContribution(View):
    """As the registry has it. `is_accepted`: null while the curators have not decided."""

    datanet: int
    index: int
    contributor: str
    content_hash: str
    cid: str
    num_rows: int
    is_accepted: bool | None
    reason: int
    recorded_at: int

    @classmethod
    def of(cls, contribution: Contribution) -> RecordedContribution:
        return cls(
            datanet=contribution.datanet,
            index=contribution.index,
            contributor=contribution.contributor,
            content_hash=contribution.content_hash,
            cid=cid_of(contribution.cid_digest),
            num_rows=contribution.num_rows,
            is_accepted=contribution.is_accepted,
            reason=contribution.reason,
            recorded_at=contribution.recorded_at,
        )


class ReviewRequest(Schema):
    """`reason`: the code of a rejection; 0 accepts."""

    reason: ReviewReason


class FreezeRequest(Schema):
    """The first `count` contributions, as accepted now; left out: all of them."""

    count: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None


class FreezingView(View):
    """The snapshot exists once the transaction is confirmed."""

    snapshot_id: str
    transaction_id: int


class SnapshotView(View):
    id: str
    datanet: int
    count: int
    accepted_hash: str
    accepted: list[int]
    block_number: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotView:
        return cls.model_validate(snapshot)


class BaseOfferView(View):
    """A base model; prices of the bare one in token units per million tokens, null where it has none.
    Adapters that cost less than `min_` are not answered for; `training_price` is for tokens trained, 0 where
    that is free. Null where the operator does not say.
    """

    digest: str
    name: str
    prompt_price: int | None
    completion_price: int | None
    min_prompt_price: int | None
    min_completion_price: int | None
    training_price: int | None


class OperatorCardView(View):
    """What an operator says of itself. `active_adapters`: digests that answer without being loaded first."""

    account: str
    bases: list[BaseOfferView]
    active_adapters: list[str]

    @classmethod
    def of(cls, card: Card) -> OperatorCardView:
        bases = [BaseOfferView.model_validate(offer) for offer in card.bases]
        return cls(account=card.account, bases=bases, active_adapters=card.active_adapters)


class OperatorView(View):
    """An operator by the chain. `keys`: those that sign its receipts; `stake` in micro-units."""

    account: str
    endpoint: str
    keys: list[str]
    stake: Micro
    card: OperatorCardView | None = Field(description="Its own word; null while it does not answer.")
    latency_ms: int | None = Field(description="Of that answer, from here; null for ourselves.")
    uptime_ppm: int | None = Field(description="Of the last 100 times that this API asked; null before.")

    @classmethod
    def of(cls, operator: Operator, standing: Standing) -> OperatorView:
        return cls(
            account=operator.account,
            endpoint=operator.endpoint,
            keys=list(operator.keys),
            stake=operator.stake,
            card=None if standing.card is None else OperatorCardView.of(standing.card),
            latency_ms=standing.latency_ms,
            uptime_ppm=standing.uptime_ppm,
        )


class ConvictionView(View):
    """Why batches fell: `convicted` is the one that was proved wrong, the others fell with it."""

    first: int
    convicted: str
    proof: str = Field(description="Function of the contract `Disputes` that voided the batch.")
    fault: str | None = Field(description="What was wrong with the receipt, where the proof was about one.")
    receipt: int | None = Field(description="That receipt's place in the convicted batch.")
    challenger: str | None = Field(description="Who earned by it, if anybody did.")
    tx_hash: str
    block_number: int

    @classmethod
    def of(cls, conviction: Conviction) -> ConvictionView:
        fault = None if conviction.fault is None else conviction.fault.name.lower()
        fields = {f.name: getattr(conviction, f.name) for f in dataclass_fields(conviction)}
        return cls(**fields | {"fault": fault})


class BatchView(View):
    """A batch as its operator committed it. Amounts in micro-units, instants in unix seconds."""

    number: int
    hash: str
    state: str
    is_held: bool = Field(description="Whether an open demand keeps it from becoming final.")
    total: Micro
    cumulative_total: Micro
    num_receipts: int
    committed_at: int
    final_at: int
    data: str = Field(description="CID of the folder with its receipts.")
    tx_hash: str
    conviction: ConvictionView | None = Field(description="Why it is void; null while it is not.")
    is_refunded: bool = Field(description="Whether what a void batch collected is back in its channels.")

    @classmethod
    def of(cls, listed: ListedBatch) -> BatchView:
        batch = listed.batch
        header = Header.from_chain(batch.header)
        return cls(
            number=batch.number,
            hash=batch.hash,
            state=batch.state,
            is_held=listed.is_held,
            total=header.total,
            cumulative_total=header.cumulative_total,
            num_receipts=header.receipts_count,
            committed_at=header.committed_at,
            final_at=header.final_at,
            data=cid_of(header.data_digest),
            tx_hash=batch.tx_hash,
            conviction=None if batch.conviction is None else ConvictionView.of(batch.conviction),
            is_refunded=batch.is_refunded,
        )


class VersionRecordBody(Schema):
    """A `VersionRecord` of the caller. Prices: token units per million tokens."""

    name: str
    adapter_digest: HashField
    cid_digest: HashField
    base_model: HashField
    snapshots: Annotated[list[HashField], Field(max_length=4)]
    prompt_price: Price
    completion_price: Price
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


class TransactionView(View):
    """A transaction of this installation: queued, sent, mined, confirmed (N blocks deep) or failed."""

    id: int
    state: str
    contract: str
    function: str
    hash: str | None
    block_number: int | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, transaction: ChainTransaction) -> TransactionView:
        return cls.model_validate(transaction)
