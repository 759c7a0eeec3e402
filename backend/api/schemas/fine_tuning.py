from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from backend.api.schemas.common import HashField, PreparedTransactionView, Schema, View
from backend.api.schemas.registry import Ppm, Price
from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32, SnapshotId
from backend.domain.screening import ScreeningReport
from backend.domain.training import JobEvent, JobState, Payment, TrainingConfig, TrainingJob
from backend.services.train.estimate import Estimate
from backend.services.train.publication import Listing, Registration

EVENT_ID = r"^(ftevent-[0-9a-z]{1,40}-)?[0-9]{1,18}$"
MESSAGES = {
    "state": "The job is {state}.",
    "dataset": "The snapshot has {num_rows} rows.",
    "progress": "Step {step}/{num_steps}: training loss {loss:.4f}.",
    "checkpoint": "A checkpoint was kept at step {step}.",
    "working": "{stage}: {done} of {total}.",
    "eval": "Loss of the {model} model on held-out rows: {loss:.4f}.",
    "retry": "{message}",
    "failed": "{message}",
    "gate": "{message}",
    "published": "The adapter is published as {cid}.",
    "charged": "{tokens} tokens were trained for {charge} micro-units: receipt {receipt_id}.",
    "registered": "The adapter is registered as {version_id}.",
}
"""Of each kind of event, from its data."""
LEVELS = {"failed": "error", "retry": "warn"}


class Hyperparameters(Schema):
    hyperparameters: dict[str, Any] = Field(default_factory=dict)


class Method(Schema):
    """OpenAI's way to say how; only supervised training is offered."""

    type: Literal["supervised"]
    supervised: Hyperparameters = Field(default_factory=Hyperparameters)


class CreateJobRequest(Schema):
    """`hyperparameters`: those of `TrainingConfig`, each checked by name; defaults for the rest. OpenAI's
    names, its `method` and its `seed` are taken too.
    """

    snapshot_id: HashField | None = None
    training_file: str | None = None
    model: str | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    method: Method | None = None
    seed: int | None = None

    def snapshot(self) -> SnapshotId:
        """Errors: `InvalidInput`."""
        if (self.snapshot_id is None) == (self.training_file is None):
            raise InvalidInput("Give either snapshot_id or, by OpenAI's name, training_file.", "snapshot_id")
        if self.snapshot_id is not None:
            return SnapshotId(Hash32(self.snapshot_id))
        try:
            return SnapshotId(Hash32(TypeAdapter(HashField).validate_python(self.training_file)))
        except ValidationError as error:
            message = "A job trains on a snapshot, not on a file: freeze one that has the file's contribution"
            raise InvalidInput(f"{message}, and give its id.", "training_file") from error

    def options(self) -> dict[str, Any]:
        """Errors: `InvalidInput` where two places name the same option."""
        places = [self.hyperparameters, {} if self.seed is None else {"seed": self.seed}]
        if self.method is not None:
            places.append(self.method.supervised.hyperparameters)
        named: dict[str, Any] = {}
        for place in places:
            for name, value in place.items():
                if name in named:
                    raise InvalidInput(f"{name} is given twice.", param=name)
                named[name] = value
        return named


class JobErrorView(View):
    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> JobErrorView:
        details = {name: value for name, value in error.items() if name not in cls.model_fields}
        return cls(code=error["code"], message=error["message"], param=error.get("param"), details=details)


class PaymentView(View):
    """`price`: token units per million tokens trained, by the record `version_id`. `max_charge` is kept on
    the channel until the job is over; `charge` and `receipt_id` are there once its adapter is published.
    """

    version_id: str
    channel_id: str
    price: int
    max_charge: str
    charge: str | None
    receipt_id: str | None

    @classmethod
    def of(cls, payment: Payment, num_trained: int | None) -> PaymentView:
        is_charged = payment.receipt_id is not None
        return cls(
            version_id=payment.version_id,
            channel_id=payment.channel_id,
            price=payment.price,
            max_charge=str(payment.max_charge),
            charge=str(payment.price * (num_trained or 0)) if is_charged else None,
            receipt_id=payment.receipt_id,
        )


class JobView(View):
    """A job as OpenAI's client reads it, and what it has beyond that. Instants: unix seconds.

    `status`: validating_files, queued, running, succeeded, failed or cancelled. `fine_tuned_model`: the
    registered version, once the chain has it. Losses in `metrics`: nats per token. `payment` is null where
    training was free.
    """

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    fine_tuned_model: str | None
    training_file: str
    validation_file: None = None
    organization_id: str
    result_files: list[str] = Field(default_factory=list)
    seed: int
    trained_tokens: int | None
    estimated_finish: None = None
    creator: str
    snapshot_id: str
    hyperparameters: dict[str, Any]
    status: str
    created_at: int
    finished_at: int | None
    adapter_digest: str | None
    base_model: str | None
    metrics: dict[str, float]
    cid: str | None
    version_id: str | None
    error: JobErrorView | None
    payment: PaymentView | None

    @classmethod
    def of(cls, job: TrainingJob, model: str) -> JobView:
        metrics = dict(job.result.metrics) if job.result else {}
        trained = None if "num_trained_tokens" not in metrics else int(metrics["num_trained_tokens"])
        return cls(
            id=job.id,
            model=model,
            fine_tuned_model=job.version_id,
            training_file=job.snapshot_id,
            organization_id=job.creator,
            seed=job.config.seed,
            trained_tokens=trained,
            creator=job.creator,
            snapshot_id=job.snapshot_id,
            hyperparameters=_options(job.config),
            status="validating_files" if job.state is JobState.VALIDATING else job.state.value,
            created_at=int(job.created_at.timestamp()),
            finished_at=None if job.finished_at is None else int(job.finished_at.timestamp()),
            adapter_digest=job.result.adapter_digest if job.result else None,
            base_model=job.result.base_model if job.result else None,
            metrics=metrics,
            cid=job.cid,
            version_id=job.version_id,
            error=JobErrorView.of(job.error) if job.error else None,
            payment=PaymentView.of(job.payment, trained) if job.payment else None,
        )


class ShownRowView(View):
    """`is_learnt[i]` says whether the model is to learn `tokens[i]` from what stands before it."""

    contribution: int
    tokens: list[str]
    is_learnt: list[bool]


class EstimateView(View):
    """`num_tokens` go through the model, `num_learnt_tokens` carry loss: of all epochs. `seconds`: by the
    pace of the newest jobs here; null where none has succeeded. `charge` is for the tokens that carry loss,
    at `price` token units per million; `max_charge` is kept on the channel while the job goes on. `rows`:
    some, as they are tokenised, the first 1,024 tokens of each.
    """

    object: Literal["fine_tuning.job.estimate"] = "fine_tuning.job.estimate"
    num_rows: int
    num_left_out: int
    num_cut: int
    num_train_rows: int
    num_eval_rows: int
    num_steps: int
    num_tokens: int
    num_learnt_tokens: int
    price: int
    charge: str
    max_charge: str
    seconds: int | None
    rows: list[ShownRowView]

    @classmethod
    def of(cls, estimate: Estimate) -> EstimateView:
        hidden = {"shown", "max_tokens"}
        counts = {name: getattr(estimate, name) for name in estimate.__slots__ if name not in hidden}
        rows = [
            ShownRowView(contribution=r.contribution, tokens=list(r.tokens), is_learnt=list(r.is_learnt))
            for r in estimate.shown
        ]
        most = str(estimate.max_charge)
        return cls(**counts, charge=str(estimate.charge), max_charge=most, rows=rows)


class RegistrationRequest(Schema):
    """What the creator sells the adapter as. Prices: token units per million tokens. An adapter that does no
    better than its base on held-out rows is listed only if `accepts_worse`, one that is like a version of
    somebody else only if `accepts_copy`.
    """

    name: str
    prompt_price: Price
    completion_price: Price
    operator_ppm: Ppm
    creator_ppm: Ppm
    accepts_worse: bool = False
    accepts_copy: bool = False

    def listing(self) -> Listing:
        return Listing(
            name=self.name,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            operator_ppm=self.operator_ppm,
            creator_ppm=self.creator_ppm,
        )


class RiskView(View):
    """`score` of 100: ten times how far the statistic `by` of the update lies from what is usual among the
    known adapters of its base, in their spreads. A low one does not say that an adapter is safe.
    """

    score: int
    by: str


class NearestView(View):
    """The version of another creator that the adapter is most like. `shared_ppm`: the part of its update in
    layers that are the same.
    """

    version_id: str
    creator: str
    cosine: float
    shared_ppm: int
    is_copy: bool


class GateView(View):
    """What an adapter is like, beside the registered versions of its base. `risk` is null where too few are
    known; `num_unknown`: of how many nothing could be read.
    """

    risk: RiskView | None
    nearest: NearestView | None
    num_compared: int
    num_unknown: int

    @classmethod
    def of(cls, report: ScreeningReport) -> GateView:
        risk, near = report.risk, report.nearest
        return cls(
            risk=None if risk is None else RiskView(score=risk.score, by=risk.by),
            nearest=None
            if near is None
            else NearestView(
                version_id=near.version,
                creator=near.creator,
                cosine=near.cosine,
                shared_ppm=near.shared_ppm,
                is_copy=near.is_copy,
            ),
            num_compared=report.num_compared,
            num_unknown=report.num_unknown,
        )


class RegistrationView(View):
    """The version exists once its creator's transaction is confirmed."""

    version_id: str
    transaction: PreparedTransactionView
    gate: GateView | None

    @classmethod
    def of(cls, registration: Registration) -> RegistrationView:
        return cls(
            version_id=registration.version_id,
            transaction=PreparedTransactionView.of(registration.transaction),
            gate=None if registration.gate is None else GateView.of(registration.gate),
        )


class JobEventView(View):
    """`data` by `kind`: see `backend.domain.training.JobEvent`. `seq` counts a job's events from 1."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    seq: int
    kind: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> JobEventView:
        return cls(
            id=f"ftevent-{event.job_id.rpartition('-')[2]}-{event.seq}",
            created_at=int(event.at.timestamp()),
            level=LEVELS.get(event.kind, "info"),
            message=MESSAGES[event.kind].format_map(event.data),
            type="metrics" if event.kind in {"progress", "eval"} else "message",
            seq=event.seq,
            kind=event.kind,
            data=dict(event.data),
        )


class CheckpointView(View):
    """`fine_tuned_model_checkpoint` is a name for the record: only registered versions are served."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, event: JobEvent) -> CheckpointView:
        step = event.data["step"]
        losses = {"train_loss": event.data["loss"]} if "loss" in event.data else {}
        return cls(
            id=f"ftckpt-{event.job_id.removeprefix('ftjob-')}-{step}",
            created_at=int(event.at.timestamp()),
            fine_tuning_job_id=event.job_id,
            fine_tuned_model_checkpoint=f"{event.job_id}:step-{step}",
            step_number=step,
            metrics={"step": step, **losses},
        )


def _options(config: TrainingConfig) -> dict[str, Any]:
    """By our names, and by OpenAI's."""
    factor = config.learning_rate / TrainingConfig().learning_rate
    ours = {name: getattr(config, name) for name in config.__slots__}
    return ours | {"n_epochs": config.epochs, "learning_rate_multiplier": factor}
