"""Tables of indexed chain data: events, checkpoints and one table per projection.

A projection row depends only on the events of its own entity, in order. So a rewind rebuilds just the
entities that the dropped events changed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, validates

from backend.db.base import ACCOUNT, HASH, Amount, Base
from backend.domain.money import mul_ppm_down

UINT256 = String(78)
"""Decimal digits. Never compared in SQL."""
NUMBER = BigInteger()
"""Block numbers, unix timestamps and counts."""


class CheckpointRow(Base):
    """A block up to which all events are indexed. The highest checkpoint is the cursor."""

    __tablename__ = "chain_checkpoints"

    number: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    hash: Mapped[str] = mapped_column(HASH)
    parent_hash: Mapped[str] = mapped_column(HASH)
    timestamp: Mapped[int] = mapped_column(NUMBER)


class EventRow(Base):
    __tablename__ = "chain_events"
    __table_args__ = (
        Index("ix_chain_events_order", "block_number", "log_index"),
        Index("ix_chain_events_name", "entity", "name", "block_number", "log_index"),
    )

    block_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True)
    block_number: Mapped[int] = mapped_column(NUMBER)
    tx_hash: Mapped[str] = mapped_column(HASH)
    timestamp: Mapped[int] = mapped_column(NUMBER)
    contract: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    args: Mapped[dict[str, Any]] = mapped_column(JSON)
    entity: Mapped[str | None] = mapped_column(String(200))
    """Table and key of the projection row that the event changes; None if it changes none."""


class Projection(Base):
    """Position of the event that created the row, so that rows sort in chain order.

    A batch can be created again under the same id; then it is the position of the last creation.
    """

    __abstract__ = True

    block_number: Mapped[int] = mapped_column(NUMBER)
    log_index: Mapped[int]


class DatanetRow(Projection):
    __tablename__ = "chain_datanets"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    creator: Mapped[str] = mapped_column(ACCOUNT)
    name: Mapped[str] = mapped_column(String(64))
    cid_digest: Mapped[str] = mapped_column(HASH)


class ContributionRow(Projection):
    __tablename__ = "chain_contributions"
    # Not unique: a reorganisation rebuilds rows one by one, and may exchange the indices of two.
    __table_args__ = (Index("ix_chain_contributions_index", "datanet", "index"),)

    datanet: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    content_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    index: Mapped[int | None] = mapped_column(NUMBER)
    """None until the curators first accept it."""
    contributor: Mapped[str] = mapped_column(ACCOUNT, index=True)
    cid_digest: Mapped[str] = mapped_column(HASH)
    licence: Mapped[str] = mapped_column(HASH)
    num_rows: Mapped[int] = mapped_column(NUMBER)
    is_accepted: Mapped[bool | None]
    reason: Mapped[int]
    recorded_at: Mapped[int] = mapped_column(NUMBER)


class SnapshotRow(Projection):
    __tablename__ = "chain_snapshots"

    id: Mapped[str] = mapped_column(HASH, primary_key=True)
    datanet: Mapped[int] = mapped_column(NUMBER, index=True)
    count: Mapped[int] = mapped_column(NUMBER)
    accepted_hash: Mapped[str] = mapped_column(HASH)
    accepted: Mapped[str] = mapped_column(Text)
    """Bitmap of accepted contributions in 256-bit words, 0x-hex."""


class VersionRow(Projection):
    __tablename__ = "chain_versions"
    __table_args__ = (Index("ix_chain_versions_creator_name", "creator", "name"),)

    id: Mapped[str] = mapped_column(HASH, primary_key=True)
    creator: Mapped[str] = mapped_column(ACCOUNT)
    name: Mapped[str] = mapped_column(String(32))
    record: Mapped[dict[str, Any]] = mapped_column(JSON)
    is_deprecated: Mapped[bool]
    # Fields of the record that queries filter and sort by.
    adapter_digest: Mapped[str] = mapped_column(HASH)
    base_model: Mapped[str] = mapped_column(HASH)
    prompt_price: Mapped[int] = mapped_column(Amount)
    completion_price: Mapped[int] = mapped_column(Amount)
    # `VersionRecord.operator_prices` of an operator that is not the creator, and of one that is.
    operator_prompt_price: Mapped[int] = mapped_column(Amount)
    operator_completion_price: Mapped[int] = mapped_column(Amount)
    own_prompt_price: Mapped[int] = mapped_column(Amount)
    own_completion_price: Mapped[int] = mapped_column(Amount)

    @validates("record")
    def _copy_fields(self, _name: str, record: dict[str, Any]) -> dict[str, Any]:
        self.adapter_digest, self.base_model = record["adapterDigest"], record["baseModel"]
        self.prompt_price, self.completion_price = prices = record["promptPrice"], record["completionPrice"]
        operator, own = record["operatorPpm"], record["operatorPpm"] + record["creatorPpm"]
        self.operator_prompt_price, self.operator_completion_price = (
            mul_ppm_down(p, operator) for p in prices
        )
        self.own_prompt_price, self.own_completion_price = (mul_ppm_down(p, own) for p in prices)
        return record


class ChannelRow(Projection):
    __tablename__ = "chain_channels"

    id: Mapped[str] = mapped_column(HASH, primary_key=True)
    payer: Mapped[str] = mapped_column(ACCOUNT, index=True)
    operator: Mapped[str] = mapped_column(ACCOUNT, index=True)
    collector: Mapped[str] = mapped_column(ACCOUNT)
    balance: Mapped[int] = mapped_column(Amount)
    collected: Mapped[int] = mapped_column(Amount)
    max_collected: Mapped[int] = mapped_column(Amount)
    """Highest value that `collected` ever had; refunds lower only `collected`."""
    next_move_nonce: Mapped[int] = mapped_column(NUMBER)
    """The payer's nonce after the last move out of the channel; zero before the first."""
    thawing: Mapped[int] = mapped_column(Amount)
    thawed_at: Mapped[int] = mapped_column(Amount)


class GrantRow(Projection):
    __tablename__ = "chain_grants"

    channel_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    key: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    cap: Mapped[int] = mapped_column(Amount)
    expiry: Mapped[int] = mapped_column(Amount)
    revoked_at: Mapped[int | None] = mapped_column(NUMBER)


class ParameterSetRow(Projection):
    __tablename__ = "chain_parameter_sets"

    id: Mapped[int] = mapped_column(NUMBER, primary_key=True, autoincrement=False)
    values: Mapped[dict[str, Any]] = mapped_column(JSON)


class OperatorRow(Projection):
    __tablename__ = "chain_operators"

    account: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    endpoint: Mapped[str] = mapped_column(Text)
    keys: Mapped[list[str]] = mapped_column(JSON)
    retired_keys: Mapped[dict[str, int]] = mapped_column(JSON)
    """Unix seconds of each retirement."""
    stake: Mapped[int] = mapped_column(Amount)


class BatchRow(Projection):
    __tablename__ = "chain_batches"
    __table_args__ = (
        Index("ix_chain_batches_number", "operator", "number", "block_number", "log_index"),
        Index("ix_chain_batches_order", "operator", "block_number", "log_index"),
    )

    hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    number: Mapped[int] = mapped_column(NUMBER)
    header: Mapped[dict[str, Any]] = mapped_column(JSON)
    tx_hash: Mapped[str] = mapped_column(HASH)
    is_refunded: Mapped[bool]
    proof: Mapped[str | None] = mapped_column(String(10))
    """Selector of the fraud proof that convicted this batch; None unless convicted."""
    challenger: Mapped[str | None] = mapped_column(ACCOUNT)
    """Account that received the challenger's reward; the zero account if none did."""
    fault: Mapped[int | None]
    """Solidity's `Fault` if the proof concerned a receipt."""
    faulty_receipt: Mapped[int | None] = mapped_column(NUMBER)


class VoidRow(Projection):
    """The pending batches of an operator, `first` to `last`, which were voided together."""

    __tablename__ = "chain_voids"

    block_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT, index=True)
    first: Mapped[int] = mapped_column(NUMBER)
    last: Mapped[int] = mapped_column(NUMBER)
    batch_hash: Mapped[str] = mapped_column(HASH)
    """Hash of the convicted one of these batches."""
    tx_hash: Mapped[str] = mapped_column(HASH)


class DemandRow(Projection):
    """A leaf that was demanded; the calldata of its answer is stored with the event only."""

    __tablename__ = "chain_demands"

    leaf_id: Mapped[str] = mapped_column(HASH, primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT)
    batch_hash: Mapped[str] = mapped_column(HASH, index=True)
    tree: Mapped[int]
    key: Mapped[str] = mapped_column(HASH)
    challenger: Mapped[str] = mapped_column(ACCOUNT)
    bond: Mapped[int] = mapped_column(Amount)
    """Wei."""
    deadline: Mapped[int] = mapped_column(NUMBER)
    deadline_block: Mapped[int] = mapped_column(NUMBER)
    is_returned: Mapped[bool]
    answer_block_hash: Mapped[str | None] = mapped_column(HASH)
    """Block of the `Answered` event; None while there is none."""
    answer_log_index: Mapped[int | None]


class FinalityRow(Projection):
    """Number of the newest final batch of an operator."""

    __tablename__ = "chain_finality"

    operator: Mapped[str] = mapped_column(ACCOUNT, primary_key=True)
    number: Mapped[int] = mapped_column(NUMBER)


class ClaimRow(Projection):
    __tablename__ = "chain_claims"

    block_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True)
    operator: Mapped[str] = mapped_column(ACCOUNT, index=True)
    account: Mapped[str] = mapped_column(ACCOUNT, index=True)
    wallet: Mapped[str] = mapped_column(ACCOUNT)
    amount: Mapped[int] = mapped_column(Amount)
    cumulative: Mapped[int] = mapped_column(Amount)
    tx_hash: Mapped[str] = mapped_column(HASH)


class ProposalRow(Projection):
    __tablename__ = "chain_proposals"

    id: Mapped[str] = mapped_column(UINT256, primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Arguments of the `ProposalCreated` event."""
    vote_ends_at: Mapped[int] = mapped_column(NUMBER)
    votes: Mapped[list[int]] = mapped_column(JSON)
    """Votes against, for and abstaining."""
    executable_at: Mapped[int] = mapped_column(NUMBER)
