from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from backend.api.schemas.common import (
    Amount,
    HashField,
    PreparedTransactionView,
    Price,
    PriceInput,
    Schema,
    View,
)
from backend.api.schemas.registry import Ppm
from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32, SnapshotId
from backend.domain.money import AMOUNT
from backend.domain.training import JobEvent, JobState, Payment, TrainingConfig, TrainingJob
from backend.domain.training_payment import charged_tokens
from backend.services.train.publication import Listing

EVENT_ID = r"^(ftevent-[0-9a-z]{1,40}-)?[0-9]{1,18}$"
CHECKPOINT_ID = r"^ftckpt-[0-9a-z]{1,40}-[0-9]{1,9}$"
MESSAGES = {
    "state": "The job is {state}.",
    "ended": "The job has {state}.",
    "dataset": "The snapshot has {num_rows} rows.",
    "progress": "Step {step}/{num_steps}: training loss {loss:.4f}.",
    "checkpoint": "Saved a checkpoint at step {step}.",
    "working": "{stage}: {done} of {total}.",
    "eval": "Loss of the {model} model on held-out rows: {loss:.4f}.",
    "result": "The adapter is ready to be published.",
    "retry": "{message}",
    "failed": "{message}",
    "screening": "{message}",
    "published": "The adapter is published as {cid}.",
    "charged": "Charged {charge[usd]} dollars for {tokens} tokens: receipt {receipt_id}.",
    "registered": "The adapter is registered as {version_id}.",
}
"""Message of each kind of event, formatted with the data that the event's view has; `ended` for the states
that a job reaches by itself.
"""
ENDED = {JobState.SUCCEEDED, JobState.FAILED}
LEVELS = {"failed": "error", "retry": "warn"}


class Hyperparameters(Schema):
    hyperparameters: dict[str, Any] = Field(default_factory=dict)


class Method(Schema):
    """OpenAI's training method. Only supervised training is supported."""

    type: Literal["supervised"]
    supervised: Hyperparameters = Field(default_factory=Hyperparameters)


class CreateJobRequest(Schema):
    """`hyperparameters`: fields of `TrainingConfig`, each validated by name; the rest have defaults. OpenAI's
    names, its `method` and its `seed` are accepted too.
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
            raise InvalidInput("Give one of snapshot_id and training_file (OpenAI's name).", "snapshot_id")
        if self.snapshot_id is not None:
            return SnapshotId(Hash32(self.snapshot_id))
        try:
            return SnapshotId(Hash32(TypeAdapter(HashField).validate_python(self.training_file)))
        except ValidationError as error:
            message = (
                "A job trains on a snapshot, not on a file: freeze a snapshot with the file's contribution"
            )
            raise InvalidInput(f"{message}, and give its id.", "training_file") from error

    def options(self) -> dict[str, Any]:
        """Options from all fields. Errors: `InvalidInput` where two fields set the same option."""
        sources = [self.hyperparameters, {} if self.seed is None else {"seed": self.seed}]
        if self.method is not None:
            sources.append(self.method.supervised.hyperparameters)
        options: dict[str, Any] = {}
        for source in sources:
            for name, value in source.items():
                if name in options:
                    raise InvalidInput(f"{name} is given twice.", param=name)
                options[name] = value
        return options


class JobErrorView(View):
    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _collect_details(cls, error: Mapping[str, Any]) -> dict[str, Any]:
        """Move keys without a field into `details`."""
        details = {name: value for name, value in error.items() if name not in cls.model_fields}
        return {**error, "details": details} if details else dict(error)


class PaymentView(View):
    """`price`: of charged tokens, from the record `version_id`. `max_charge` is reserved on the channel until
    the job ends; `charge` and `receipt_id` are set once its adapter is published.
    """

    version_id: str
    channel_id: str
    price: Price
    max_charge: Amount
    charge: Amount | None
    receipt_id: str | None

    @classmethod
    def of(cls, payment: Payment, num_charged: int | None) -> PaymentView:
        is_charged = payment.receipt_id is not None
        return cls(
            version_id=payment.version_id,
            channel_id=payment.channel_id,
            price=payment.price,
            max_charge=payment.max_charge,
            charge=payment.price * (num_charged or 0) if is_charged else None,
            receipt_id=payment.receipt_id,
        )


class JobView(View):
    """OpenAI's job object with additional fields. Times are unix seconds.

    `status`: validating_files, queued, running, succeeded, failed or cancelled. `fine_tuned_model`: the
    registered version, once it is confirmed on the chain. `trained_tokens`: those that are charged, at least
    one epoch; `num_trained_tokens` in `metrics` counts what was trained. Losses in `metrics` are nats per
    token. `payment` is null where training is free.
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
        num_charged = charged_tokens(job)
        return cls(
            id=job.id,
            model=model,
            fine_tuned_model=job.version_id,
            training_file=job.snapshot_id,
            organization_id=job.creator,
            seed=job.config.seed,
            trained_tokens=num_charged,
            creator=job.creator,
            snapshot_id=job.snapshot_id,
            hyperparameters=_hyperparameters(job.config),
            status="validating_files" if job.state is JobState.VALIDATING else job.state.value,
            created_at=int(job.created_at.timestamp()),
            finished_at=None if job.finished_at is None else int(job.finished_at.timestamp()),
            adapter_digest=job.result.adapter_digest if job.result else None,
            base_model=job.result.base_model if job.result else None,
            metrics=dict(job.result.metrics) if job.result else {},
            cid=job.published_cid,
            version_id=job.version_id,
            error=JobErrorView.model_validate(job.error) if job.error else None,
            payment=PaymentView.of(job.payment, num_charged) if job.payment else None,
        )


class RowPreviewView(View):
    """A tokenised row. `is_trained[i]` says whether training computes loss on `tokens[i]`."""

    contribution: int
    tokens: list[str]
    is_trained: list[bool]


class EstimateView(View):
    """Counts are totals over all epochs: `num_tokens` pass through the model, `num_trained_tokens` carry
    loss. `seconds`: estimated from the newest jobs of this installation; null where none succeeded yet.
    `charge` is for `num_charged_tokens`, those that pass in one epoch at least, at `price`;
    `max_charge` is reserved on the channel during the job. `rows`: a sample as it is tokenised, the first
    1,024 tokens of each.
    """

    object: Literal["fine_tuning.job.estimate"] = "fine_tuning.job.estimate"
    num_rows: int
    num_left_out: int
    num_truncated: int = Field(validation_alias="num_cut")
    num_train_rows: int
    num_eval_rows: int
    num_steps: int
    num_tokens: int
    num_trained_tokens: int
    num_charged_tokens: int
    price: Price
    charge: Amount
    max_charge: Amount
    seconds: int | None
    rows: list[RowPreviewView] = Field(validation_alias="examples")


class RegistrationRequest(Schema):
    """Name, prices and revenue split of the version. Registering an adapter that is no better than its base
    on held-out rows needs `accepts_worse`; one that is similar to another creator's version needs
    `accepts_copy`.
    """

    name: str
    prompt_price: PriceInput
    completion_price: PriceInput
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
    """`score`, 0 to 100: how unusual the update is among known adapters of its base: ten times the distance
    of the statistic `by` from its median, in units of its spread. A low score does not mean that an adapter
    is safe.
    """

    score: int
    by: str


class NearestView(View):
    """The most similar version of another creator. `shared_ppm`: the share of the update that lies in layers
    equal to that version's.
    """

    version_id: str = Field(validation_alias="version")
    creator: str
    cosine: float
    shared_ppm: int
    is_copy: bool


class ScreeningView(View):
    """The adapter compared with the registered versions of its base. `risk` is null where too few are known;
    `num_unknown`: versions that could not be read.
    """

    risk: RiskView | None
    nearest: NearestView | None
    num_compared: int
    num_unknown: int


class RegistrationView(View):
    """The version exists once its creator's transaction is confirmed."""

    version_id: str
    transaction: PreparedTransactionView
    screening: ScreeningView | None


class JobEventView(View):
    """The keys of `data` depend on `kind`: see `backend.domain.training.JobEvent`; its `charge` is an
    `Amount`. `seq` counts from 1.
    """

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
        data = dict(event.data)
        if event.kind == "charged":
            data["charge"] = AMOUNT.render(int(data["charge"]))
        message = MESSAGES["ended" if data.get("state") in ENDED else event.kind]
        return cls(
            id=f"ftevent-{event.job_id.rpartition('-')[2]}-{event.seq}",
            created_at=int(event.at.timestamp()),
            level=LEVELS.get(event.kind, "info"),
            message=message.format_map(data),
            type="metrics" if event.kind in {"progress", "eval"} else "message",
            seq=event.seq,
            kind=event.kind,
            data=data,
        )


class CheckpointView(View):
    """`fine_tuned_model_checkpoint` names the checkpoint but cannot be requested: only registered versions
    are served.
    """

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
            id=checkpoint_id(event.job_id, step),
            created_at=int(event.at.timestamp()),
            fine_tuning_job_id=event.job_id,
            fine_tuned_model_checkpoint=f"{event.job_id}:step-{step}",
            step_number=step,
            metrics={"step": step, **losses},
        )


def checkpoint_id(job_id: str, step: int) -> str:
    return f"ftckpt-{job_id.removeprefix('ftjob-')}-{step}"


def _hyperparameters(config: TrainingConfig) -> dict[str, Any]:
    """Hyperparameters under their own names, and under OpenAI's."""
    factor = config.learning_rate / TrainingConfig().learning_rate
    ours = {name: getattr(config, name) for name in config.__slots__}
    return ours | {"n_epochs": config.epochs, "learning_rate_multiplier": factor}
