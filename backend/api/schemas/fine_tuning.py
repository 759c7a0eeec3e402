from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from backend.api.schemas.common import HashField, PreparedTransactionView, Schema, View
from backend.api.schemas.registry import Ppm, Price
from backend.domain.training import JobEvent, TrainingJob
from backend.services.publish import Listing, Registration


class CreateJobRequest(Schema):
    """`hyperparameters`: those of `TrainingConfig`, each checked by name; defaults for the rest."""

    snapshot_id: HashField
    hyperparameters: dict[str, Any] = Field(default_factory=dict)


class JobView(View):
    """`status`: validating, queued, running, succeeded, failed or cancelled. Losses: nats per token."""

    id: str
    object: str = "fine_tuning.job"
    creator: str
    snapshot_id: str
    hyperparameters: dict[str, Any]
    status: str
    created_at: datetime
    finished_at: datetime | None
    adapter_digest: str | None
    base_model: str | None
    metrics: dict[str, float]
    cid: str | None
    version_id: str | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, job: TrainingJob) -> JobView:
        config = job.config
        return cls(
            id=job.id,
            creator=job.creator,
            snapshot_id=job.snapshot_id,
            hyperparameters={name: getattr(config, name) for name in config.__slots__},
            status=job.state.value,
            created_at=job.created_at,
            finished_at=job.finished_at,
            adapter_digest=job.result.adapter_digest if job.result else None,
            base_model=job.result.base_model if job.result else None,
            metrics=dict(job.result.metrics) if job.result else {},
            cid=job.cid,
            version_id=job.version_id,
            error=dict(job.error) if job.error else None,
        )


class RegistrationRequest(Schema):
    """What the creator sells the adapter as. Prices: token units per million tokens. An adapter that does no
    better than its base on held-out rows is listed only if `accepts_worse`.
    """

    name: str
    prompt_price: Price
    completion_price: Price
    operator_ppm: Ppm
    creator_ppm: Ppm
    accepts_worse: bool = False

    def listing(self) -> Listing:
        return Listing(
            name=self.name,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            operator_ppm=self.operator_ppm,
            creator_ppm=self.creator_ppm,
        )


class RegistrationView(View):
    """The version exists once its creator's transaction is confirmed."""

    version_id: str
    transaction: PreparedTransactionView

    @classmethod
    def of(cls, registration: Registration) -> RegistrationView:
        transaction = PreparedTransactionView.of(registration.transaction)
        return cls(version_id=registration.version_id, transaction=transaction)


class JobEventView(View):
    """`data` by `kind`: see `backend.domain.training.JobEvent`."""

    seq: int
    at: datetime
    kind: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> JobEventView:
        return cls.model_validate(event)
