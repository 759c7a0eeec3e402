"""Fine-tuning jobs: configuration, lease, payment, result and events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from backend.domain.errors import InvalidInput
from backend.domain.ids import VersionId  # noqa: TC001 - options read the types of fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backend.domain.ids import Account, ChannelId, Cid, Hash32, ReceiptId, SnapshotId

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of the decoder, which an adapter may target."""
MAX_BATCH_TOKENS = 65_536
"""Limit of `batch_size * max_length`. It bounds the duration of an optimizer step."""


class EmptySnapshot(InvalidInput):
    """The snapshot has no accepted contributions to train on."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Hyper-parameters of one job. The defaults suit a few hundred short rows on two CPU cores.

    Lengths are in tokens. `warmup_fraction` is a fraction of the steps, `eval_fraction` of the rows.
    `checkpoint_steps` bounds the optimizer steps that a killed worker loses. A positive `steps` overrides
    `epochs`. `early_stopping` ends training after that number of consecutive evaluations without a lower
    loss (0: never). Training starts from the weights of version `parent`, if given. `packing` fills each
    sequence of `max_length` with several rows, which do not attend to each other. `loss_on` "all" also trains
    on the tokens of users and systems.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    variant: Literal["lora", "rslora", "dora"] = "lora"
    targets: tuple[str, ...] = LINEAR_LAYERS
    learning_rate: float = 2e-3
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: float = 0.1
    epochs: float = 2.0
    steps: int = 0
    batch_size: int = 8
    packing: bool = False
    max_length: int = 192
    loss_on: Literal["completions", "all"] = "completions"
    eval_fraction: float = 0.1
    seed: int = 0
    checkpoint_steps: int = 20
    early_stopping: int = 0
    parent: VersionId | None = None


class JobState(StrEnum):
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """A worker's unit of work for a job."""

    VALIDATE = "validate"
    TRAIN = "train"
    PUBLISH = "publish"


RESTING = "resting"
"""Owner of a lease between a failed attempt and the next one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's exclusive right to a job until an instant.

    Without an owner any worker can take it at once, and `until` is when it is next offered to the workers.
    With owner `RESTING` it waits for the next attempt.
    """

    owner: str | None
    until: datetime
    heartbeat_at: datetime | None = None
    """The owner's last heartbeat; without an owner, the instant of the first offer."""
    attempt: int = 0
    """Number of attempts at the current step since it last made progress."""

    def is_free(self, now: datetime) -> bool:
        return self.owner is None or self.until <= now


@dataclass(frozen=True, slots=True)
class Dataset:
    """The training rows in a job's folder."""

    digest: Hash32
    """sha-256 of the file. A snapshot gives the same rows in the same order on every machine."""
    num_rows: int
    num_contributions: int


@dataclass(frozen=True, slots=True)
class About:
    """What a creator says of an imported adapter. `source`: where it comes from, such as a hub's commit."""

    description: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class ImportedAdapter:
    """An adapter that was trained elsewhere. `licence` is an SPDX expression."""

    licence: str
    transfers: Mapping[str, str]
    """File name -> id of the transfer that uploads it."""
    about: About = About()

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """From `asdict`, as JSON keeps it; earlier ones say nothing about themselves."""
        about = dict(stored.get("about", {}))
        return cls(
            stored["licence"], stored["transfers"], About(**about | {"tags": tuple(about.get("tags", ()))})
        )


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained adapter and its evaluation on held-out rows."""

    adapter_digest: Hash32
    base_model: Hash32
    metrics: Mapping[str, float]
    """`eval_loss_base`, `eval_loss_adapter` (nats per completion token), `perplexity_...`, `train_loss`, the
    same losses on the general set as `general_loss_...`, `num_train_rows`, `num_eval_rows`, of them
    `num_shared_eval_rows` with the source or question of a trained row, `num_unused_rows`, `num_tokens` (that
    went through the model), `num_trained_tokens` (with loss), `num_charged_tokens` (those of one epoch, or
    `num_tokens` if they are more), `num_steps`, `kept_step` (the step of these weights), `midway_step` (the
    step of the index's gradients), `train_seconds`. Results of earlier releases lack `num_charged_tokens`,
    `num_shared_eval_rows` and `num_unused_rows`.
    `distilled_agreement` and `distilled_error_agreement` are the mean rank correlations of the distilled
    scores with the gradient's on `num_kept_out` answers, if there are two contributions or more. For an
    imported adapter only the losses on the general set."""

    @property
    def is_better_than_base(self) -> bool | None:
        """Whether the held-out loss is lower than the base model's; None for an imported adapter."""
        if "eval_loss_adapter" not in self.metrics:
            return None
        return self.metrics["eval_loss_adapter"] < self.metrics["eval_loss_base"]


@dataclass(frozen=True, slots=True)
class Payment:
    """How a job is paid: from a channel, at the price in force when the job was made."""

    channel_id: ChannelId
    version_id: VersionId
    """The operator's training record, which fixes the price."""
    price: int  # token units per million tokens
    max_tokens: int
    receipt_id: ReceiptId | None = None
    """None until the job is charged."""

    @property
    def max_charge(self) -> int:
        """Micro-units that the job reserves on the channel until it ends."""
        return self.price * self.max_tokens


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A job that trains an adapter on a snapshot, or imports one, and publishes it.

    With an `imported` adapter `snapshot_id` is zero, `config` is ignored and no step trains.
    """

    id: str
    creator: Account
    snapshot_id: SnapshotId
    config: TrainingConfig
    state: JobState
    created_at: datetime
    lease: Lease
    finished_at: datetime | None = None
    dataset: Dataset | None = None
    result: TrainingResult | None = None
    cid: Cid | None = None
    """CID of the adapter's folder, set before the folder is stored. A job that ends without success has it
    until the folder is deleted.
    """
    version_id: VersionId | None = None
    """The registered version of the job's adapter; None until the chain confirms it."""
    error: Mapping[str, Any] | None = None
    """`{"code", "message"}` and details of a failed job."""
    imported: ImportedAdapter | None = None
    payment: Payment | None = None
    """None if training was free when the job was made."""
    base: Hash32 | None = None
    """Digest of the base model; None: the operator's first one, for jobs that name none."""

    @property
    def is_over(self) -> bool:
        return self.state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

    @property
    def published_cid(self) -> Cid | None:
        return self.cid if self.state is JobState.SUCCEEDED else None

    @property
    def step(self) -> Step | None:
        """The next step; None once the job is over."""
        if self.is_over:
            return None
        if self.state is JobState.VALIDATING:
            return Step.VALIDATE
        return Step.TRAIN if self.result is None else Step.PUBLISH


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job. `seq` counts from 1.

    Kinds: `state` (state, step, attempt), `dataset` (digest, num_rows), `progress` (step, num_steps, loss,
    tokens_per_second, eta_seconds), `checkpoint` (step, loss), `working` (stage, done, total; in long stages
    and long steps), `eval` (model, loss, perplexity), `result` (home: id of the folder of jobs that has the
    result), `retry` (message, attempt; in an outage also since: when it began), `failed` (code, message),
    `screening` (message, and the fields of `ScreeningReport`), `published` (cid), `charged` (receipt_id,
    tokens, charge), `registered` (version_id).
    """

    job_id: str
    seq: int
    at: datetime
    kind: str
    data: Mapping[str, Any]
