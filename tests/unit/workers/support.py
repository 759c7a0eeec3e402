"""Training jobs on a real database, with a controllable clock and rows in memory."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backend.db.tables.chain import ChannelRow, CheckpointRow, ContributionRow, SnapshotRow
from backend.db.tables.outbox import OutboxRow
from backend.domain.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from backend.domain.catalogue import BaseModel
from backend.domain.hashing import TypedDomain, accepted_hash, snapshot_id, version_id
from backend.domain.ids import Account, DatanetId, Hash32
from backend.domain.receipt import VersionRecord
from backend.domain.training import Dataset, Step, TrainingResult
from backend.domain.training_payment import training_record
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.services.channels.admission import Counterparty
from backend.services.train.jobs import Training
from backend.services.train.leases import Leases
from backend.services.train.payments import Payments
from inference.lora.files import digest_of
from tests.support.databases import version_row
from tests.support.fakes import some_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import SnapshotId, VersionId
    from backend.domain.training import JobEvent, TrainingJob
    from backend.services.contribute.transfers import Transfers
    from backend.services.train.leases import LeasedJob

CREATOR = Account("0x" + "c1" * 20)
OTHER_CREATOR = Account("0x" + "5a" * 20)
DATASET = Dataset(Hash32("0x" + "da" * 32), 12, 2)
METRICS = {"eval_loss_base": 4.0, "eval_loss_adapter": 3.0}
TRAINED_FILES = {CONFIG_FILE: b"{}", WEIGHTS_FILE: b"weights"}
"""Of the adapter that a training process writes."""
_DIGEST = digest_of(TRAINED_FILES[CONFIG_FILE], [TRAINED_FILES[WEIGHTS_FILE]])
RESULT = TrainingResult(Hash32("0x" + _DIGEST), Hash32("0x" + "ba" * 32), METRICS)


OPERATOR, COLLECTOR = Account("0x" + "09" * 20), Account("0x" + "c0" * 20)
PAYEE = Counterparty(OPERATOR, COLLECTOR, TypedDomain(31337, COLLECTOR))
TRAINING = training_record(OPERATOR, RESULT.base_model, price=5)
BASE = BaseModel(RESULT.base_model, "tiny", OPERATOR)
FREE = Payments(PAYEE, [BASE], lambda _: some_key("receipts"), 60)
PAID = Payments(PAYEE, [replace(BASE, training_price=5)], lambda _: some_key("receipts"), 3600)
NUM_ROWS = 12
"""Rows of each contribution."""


def transferred(transfers: Transfers, account: Account, content: bytes) -> str:
    """A completed transfer of `content`; returns its id."""
    made = transfers.create(account, len(content))
    return transfers.append(account, made.id, 0, [content]).id


class InMemoryRows:
    """Implements `backend.ports.training.SnapshotRows` from memory."""

    def __init__(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        self.content = list(rows)
        self.error: Exception | None = None

    def rows(self, snapshot_id: SnapshotId) -> Iterator[tuple[int, Mapping[str, Any]]]:
        if self.error is not None:
            raise self.error
        yield from self.content

    def rows_at(
        self, snapshot_id: SnapshotId, places: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        yield from (self.content[place] for place in places if place < len(self.content))

    def licences(self, snapshot_id: SnapshotId) -> list[str]:
        return ["MIT"]


def letter_rows(count: int = 24) -> list[tuple[int, dict[str, str]]]:
    """Short rows of two contributions, each about a different object."""
    return [
        (
            i % 2,
            {
                "prompt": f"What is {i}?",
                "completion": f"The number {i}, of {count}.",
                "source": f"object-{i}",
            },
        )
        for i in range(count)
    ]


class JobHarness:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.training = Training(database, FREE, lambda: self.now)
        self.leases = Leases(database, FREE, lambda: self.now, seconds=30)

    def create_leased(self, step: Step = Step.VALIDATE, **config: Any) -> LeasedJob:
        """A new job with a leased step."""
        held = self.leases.acquire(self.job(**config).id, step)
        assert held is not None
        return held

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def snapshot(self, *accepted: bool, num_rows: int = NUM_ROWS) -> SnapshotId:
        """`num_rows`: of each contribution, as it states."""
        digest = accepted_hash(accepted)
        frozen = snapshot_id(DatanetId(1), len(accepted), digest)
        words = sum(1 << i for i, bit in enumerate(accepted) if bit).to_bytes(32, "big")
        row = SnapshotRow(
            id=frozen, datanet=1, count=len(accepted), accepted_hash=digest, accepted="0x" + words.hex()
        )
        row.block_number, row.log_index = 1, 0
        with self.database.begin() as tx:
            tx.session.merge(row)
            for index in range(len(accepted)):
                tx.session.merge(_recorded(index, num_rows))
        return frozen

    def fund(self, amount: int) -> None:
        """Open a channel of the creator with a voucher for all of it, and register the price of training."""
        channel = PAYEE.channel(CREATOR)
        deposit = ChannelRow(id=channel, payer=CREATOR, operator=OPERATOR, collector=COLLECTOR)
        deposit.balance, deposit.block_number, deposit.log_index = amount, 1, 1
        deposit.collected = deposit.max_collected = deposit.next_move_nonce = 0
        deposit.thawing = deposit.thawed_at = 0
        signed = SignedVoucher(Voucher(channel, 0, amount), "0x" + "00" * 65)
        head = CheckpointRow(number=3, hash=channel, parent_hash=channel, timestamp=int(time.time()))
        with self.database.begin() as tx:
            tx.session.add(deposit)
            tx.session.add(head)
            tx.channels.put_voucher(ClientVoucher(signed, CREATOR))
        self._register(TRAINING)

    def version(self, *snapshots: SnapshotId, name: str = "parent") -> VersionId:
        """Index a registered adapter."""
        record = VersionRecord(
            creator=OTHER_CREATOR,
            name=name,
            adapter_digest=RESULT.adapter_digest,
            cid_digest=Hash32("0x" + "cd" * 32),
            base_model=RESULT.base_model,
            snapshots=snapshots,
            prompt_price=1,
            completion_price=2,
            operator_ppm=0,
            creator_ppm=0,
        )
        return self._register(record)

    def _register(self, record: VersionRecord) -> VersionId:
        version = version_id(record)
        with self.database.begin() as tx:
            tx.session.merge(version_row(version, record, 2))
        return version

    def job(self, **config: Any) -> TrainingJob:
        return self.training.create(CREATOR, self.snapshot(True, True), config)

    def events(self, job: TrainingJob) -> list[JobEvent]:
        return list(self.training.events(job.id))

    def offers(self) -> list[tuple[str, str]]:
        """(topic, job id) of all outbox entries, in order."""
        with self.database.begin() as tx:
            rows = tx.session.query(OutboxRow).order_by(OutboxRow.id)
            return [(row.topic, row.payload["job_id"]) for row in rows]


def _recorded(index: int, num_rows: int) -> ContributionRow:
    word = f"0x{index:064x}"
    row = ContributionRow(
        datanet=1, index=index, contributor=OTHER_CREATOR, content_hash=word, cid_digest=word
    )
    row.licence, row.num_rows, row.is_accepted, row.reason, row.recorded_at = word, num_rows, True, 0, 1
    row.block_number, row.log_index = 1, index
    return row
