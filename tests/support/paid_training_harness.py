"""A scripted installation whose payer trains, with a real database, channel ledger and keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backend.domain.ids import Cid, SnapshotId
from backend.domain.training import Dataset, Step, TrainingResult
from backend.services.train.jobs import Training
from backend.services.train.leases import Leases
from backend.services.train.payments import Payments
from tests.support.market import some_hash
from tests.support.scripted_installation import TRAINING_PRICE, ScriptedInstallation

if TYPE_CHECKING:
    from backend.domain.serving import StoredReceipt
    from backend.domain.training import TrainingJob
    from backend.services.train.leases import LeasedJob

SNAPSHOT = SnapshotId(some_hash("snapshot"))
NUM_ROWS = 20
CONFIG = {"epochs": 1, "max_length": 50, "batch_size": 10}
MOST = NUM_ROWS * 50 * TRAINING_PRICE
"""Amount reserved for a job of `CONFIG`."""
TOKENS = 321
CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
RESULT = TrainingResult(
    some_hash("trained"),
    some_hash("base model"),
    {"eval_loss_base": 4.0, "eval_loss_adapter": 3.0, "num_trained_tokens": 99, "num_charged_tokens": TOKENS},
)


@dataclass
class PaidTrainingHarness:
    """An installation whose payer trains."""

    installation: ScriptedInstallation

    def __post_init__(self) -> None:
        self.installation.record_rows(NUM_ROWS)
        self.leases = self.leases_with(self.installation.payments)

    @property
    def training(self) -> Training:
        return self.installation.services.training

    def leases_with(self, payments: Payments) -> Leases:
        return Leases(self.installation.db, payments, self.installation.clock, seconds=30)

    def selling_at(self, price: int) -> Payments:
        """Payments as after a restart with another training price."""
        counterparty, key = self.installation.counterparty, self.installation.receipt_key
        base = replace(self.installation.base, training_price=price)
        return Payments(counterparty, [base], lambda _: key, 60)

    def training_with(self, payments: Payments) -> Training:
        return Training(self.installation.db, payments, self.installation.clock)

    def create(self, **options: Any) -> TrainingJob:
        return self.training.create(self.installation.payer.account, SNAPSHOT, CONFIG | options)

    def lease(self, job: TrainingJob, step: Step) -> LeasedJob:
        held = self.leases.acquire(job.id, step)
        assert held is not None
        return held

    def train(self, job: TrainingJob, num_tokens: int = TOKENS) -> None:
        """Run all steps except publication."""
        self.leases.complete_validation(
            self.lease(job, Step.VALIDATE), Dataset(some_hash("rows"), NUM_ROWS, 3)
        )
        metrics = {**RESULT.metrics, "num_charged_tokens": num_tokens}
        self.leases.complete_training(self.lease(job, Step.TRAIN), replace(RESULT, metrics=metrics))

    def publish(self, job: TrainingJob) -> TrainingJob:
        self.train(job)
        return self.leases.complete_publication(self.lease(job, Step.PUBLISH), CID)

    @property
    def reserved(self) -> int:
        with self.installation.read() as tx:
            found = tx.channels.reservations([self.installation.channel])
        return sum(one.amount for one in found)

    @property
    def receipts(self) -> list[StoredReceipt]:
        with self.installation.read() as tx:
            return list(tx.receipts.page(self.installation.payer.account, None, 100))
