"""Trained and imported adapters, published in a real store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backend.db.tables.chain import CheckpointRow, VersionRow
from backend.domain.adapter_files import MAX_BYTES
from backend.domain.hashing import version_id
from backend.domain.ids import Account
from backend.domain.training import Step, TrainingResult
from backend.domain.transactions import PreparedTransaction
from backend.services.contribute.transfers import Transfers
from backend.services.market.screening import Screening
from backend.services.train.imported import ImportedAdapters
from backend.services.train.publication import Listing, Publication
from backend.storage.embedded import EmbeddedStore
from tests.support.databases import version_row
from tests.unit.workers.support import CREATOR, DATASET, RESULT, JobHarness, transferred

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.training import TrainingJob


LISTING = Listing("python-docs", 2_000_000, 4_000_000, 200_000, 300_000)


SECOND = timedelta(seconds=1)


SKETCH = bytes(range(64)) * 4  # two layers


WORSE = TrainingResult(
    RESULT.adapter_digest, RESULT.base_model, {"eval_loss_base": 2.0, "eval_loss_adapter": 2.0}
)


class FakeChain:
    """Prepares any transaction."""

    def __init__(self) -> None:
        self.prepared: list[tuple[str, str, Any, Account]] = []

    def prepare(self, contract: str, function: str, *args: Any, sender: Account) -> PreparedTransaction:
        self.prepared.append((contract, function, args[0], sender))
        return PreparedTransaction(31337, Account("0x" + "aa" * 20), "0x", 0, {}, 1)


class PublicationHarness:
    """Publication with a real store and database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.jobs = JobHarness(database)
        self.chain = FakeChain()
        self.store = EmbeddedStore(folder / "ipfs", is_durable=False)
        clock = lambda: self.jobs.now  # noqa: E731
        self.screening = Screening(database)
        self.publication = Publication(database, self.store, self.chain, self.screening, clock)  # type: ignore[arg-type]
        self.transfers = Transfers(folder / "transfers", 1000)
        self.imports = ImportedAdapters(database, self.transfers, clock)
        self._taken: dict[str, Any] = {}
        self.adapter = folder / "adapter"
        self.adapter.mkdir()
        for name in ("adapter_config.json", "README.md"):
            (self.adapter / name).write_text(name)
        (self.adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 2000)

    def train(self, result: TrainingResult = RESULT) -> TrainingJob:
        job, leases = self.jobs.job(), self.jobs.leases
        leases.complete_validation(self._take(job, Step.VALIDATE), DATASET)
        leases.complete_training(self._take(job, Step.TRAIN), result)
        return self.jobs.training.get(job.id)

    def begin_publication(self, result: TrainingResult = RESULT) -> TrainingJob:
        """Store the folder; the job has not ended yet."""
        job = self.train(result)
        held = self._taken[job.id] = self._take(job, Step.PUBLISH)
        self.jobs.leases.begin_publication(held, self.publication.cid_of(self.adapter))
        self.publication.publish(self.adapter)
        return self.jobs.training.get(job.id)

    def end(self, job: TrainingJob, how: str) -> None:
        """Cancel it, or have it fail."""
        if how == "cancel":
            self.jobs.training.cancel(job.id, CREATOR)
        else:
            self.jobs.leases.fail(self._taken[job.id], {"code": "refused", "message": "as a denial does"})

    def publish(self, result: TrainingResult = RESULT) -> TrainingJob:
        job = self.begin_publication(result)
        assert job.cid is not None
        self.jobs.leases.complete_publication(self._taken[job.id], job.cid)
        return self.jobs.training.get(job.id)

    def publish_import(self) -> TrainingJob:
        """Import and publish an adapter that was trained elsewhere."""
        files = {name: transferred(self.transfers, CREATOR, b"{}") for name in MAX_BYTES}
        job = self.imports.create(CREATOR, "MIT", files)
        unmeasured = TrainingResult(RESULT.adapter_digest, RESULT.base_model, {"general_loss_base": 1.0})
        self.jobs.leases.complete_import(self._take(job, Step.VALIDATE), unmeasured)
        held = self._take(job, Step.PUBLISH)
        self.jobs.leases.complete_publication(held, self.publication.publish(self.adapter))
        return self.imports.get(job.id)

    def confirm(self, job: TrainingJob, listing: Listing = LISTING, block: int = 9) -> str:
        """The chain confirms the registration."""
        record = self.publication.record(job, listing)
        version = version_id(record)
        with self.jobs.database.begin() as tx:
            tx.session.merge(version_row(version, record, block))
        return version

    def forget(self, after: timedelta, lag: timedelta = timedelta()) -> int:
        """Forget unregistered imports when so much time has passed and the index of the chain is so old."""
        self.jobs.wait(after.total_seconds())
        head = CheckpointRow(number=9, hash="0x" + "09" * 32, parent_hash="0x" + "08" * 32)
        head.timestamp = int((self.jobs.now - lag).timestamp())
        with self.jobs.database.begin() as tx:
            tx.session.merge(head)
        return self.publication.forget_unneeded()

    def list_elsewhere(self, creator: Account) -> str:
        """Register the same weights for another creator, in another folder."""
        raw = {
            "adapterDigest": RESULT.adapter_digest,
            "cidDigest": "0x" + "77" * 32,
            "baseModel": RESULT.base_model,
            "snapshots": [],
            "promptPrice": 1,
            "completionPrice": 1,
            "operatorPpm": 1,
            "creatorPpm": 1,
        }
        version = "0x" + "0e" * 32
        row = VersionRow(id=version, creator=creator, name="other", record=raw, is_deprecated=False)
        row.block_number, row.log_index = 3, 0
        with self.jobs.database.begin() as tx:
            tx.session.merge(row)
        return version

    def _take(self, job: TrainingJob, step: Step) -> Any:
        held = self.jobs.leases.acquire(job.id, step)
        assert held is not None
        return held
