"""Fine-tuning jobs: what is asked for, who works on it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from backend.domain.errors import InvalidInput
from backend.domain.ids import VersionId  # noqa: TC001 - options read the types of fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from backend.domain.ids import Account, ChannelId, Cid, Hash32, ReceiptId, SnapshotId

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What an adapter may target: the linear layers of the decoder."""
MAX_BATCH_TOKENS = 65_536
"""`batch_size` times `max_length` at most: it bounds the memory of an optimizer step, and its silence."""


class EmptySnapshot(InvalidInput):
    """A snapshot with nothing accepted in it: there is nothing to learn from."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Hyper-parameters of one job. The defaults suit a few hundred short rows on two CPU cores.

    Lengths are in tokens, `warmup_fraction` and `eval_fraction` are parts of steps and of rows,
    `checkpoint_steps` is how many optimizer steps a killed worker may lose. `steps` above 0 stands for
    `epochs`. `early_stopping` is after how many checkpoints in a row without a lower loss training ends, 0:
    never. `parent` is the version whose weights training goes on from. With `packing` a row of a batch is a
    sequence of `max_length` filled with several rows, none of which sees another. `loss_on` "all" learns what
    users and systems say too.
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
    """What a worker does next for a job."""

    VALIDATE = "validate"
    TRAIN = "train"
    PUBLISH = "publish"


RESTING = "resting"
"""Owns the lease of a step between a failed attempt and the next."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a job, and until when nobody else may.

    Without an owner anybody takes it at once, and `until` is when it is offered to the workers again. With
    the owner `RESTING` nobody works on it: it waits after a failed attempt.
    """

    owner: str | None
    until: datetime
    heartbeat_at: datetime | None = None
    """The owner's last sign of life; without one, since when the step is on offer."""
    attempt: int = 0
    """How often the present step was begun since it last got further."""

    def is_free(self, now: datetime) -> bool:
        return self.owner is None or self.until <= now


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows a job trains on, as written to its folder."""

    digest: Hash32
    """sha-256 of the file: the same snapshot gives the same rows in the same order on every machine."""
    num_rows: int
    num_contributions: int


@dataclass(frozen=True, slots=True)
class ImportedAdapter:
    """An adapter that was trained elsewhere. `licence`: the SPDX expression that its creator gives it."""

    licence: str
    transfers: Mapping[str, str]
    """Ids of what brings its files, by the files' names."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What training gave: the adapter by content, and how it fares on rows it has not seen."""

    adapter_digest: Hash32
    base_model: Hash32
    metrics: Mapping[str, float]
    """`eval_loss_base`, `eval_loss_adapter` (nats per completion token), `perplexity_...`, `train_loss`, the
    same losses on the general set as `general_loss_...`, `num_train_rows`, `num_eval_rows`,
    `num_trained_tokens`, `num_steps`, `kept_step` (whose weights these are), `midway_step` (of the index's
    gradients), `train_seconds`. Of a foreign adapter the losses on the general set alone."""

    @property
    def is_better_than_base(self) -> bool | None:
        """None where no rows were held out: nobody here knows what a foreign adapter was trained on."""
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
    """From what a creator brings to an adapter in the block store: by training on a snapshot, or, where
    there is a `foreign` adapter, by accepting that one. Then `snapshot_id` is zero, `config` means nothing,
    and no step trains.
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
    version_id: VersionId | None = None
    """The version that this job's adapter was registered as; None until the chain says so."""
    error: Mapping[str, Any] | None = None
    """`{"code", "message"}` and details, of a failed job."""
    foreign: ImportedAdapter | None = None
    payment: Payment | None = None
    """None where training was free when the job was made."""

    @property
    def is_over(self) -> bool:
        return self.state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

    @property
    def step(self) -> Step | None:
        """What is to be done next; None when the job is over."""
        if self.is_over:
            return None
        if self.state is JobState.VALIDATING:
            return Step.VALIDATE
        return Step.TRAIN if self.result is None else Step.PUBLISH


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. `seq` rises by one, from 1.

    Kinds: `state` (state, step, attempt), `dataset` (digest, num_rows), `progress` (step, num_steps, loss,
    tokens_per_second, eta_seconds), `checkpoint` (step, loss), `working` (stage, done, total; in long stages
    that have no steps), `eval` (model, loss, perplexity), `retry` (message, attempt), `failed` (code,
    message), `gate` (message, and the fields of `ScreeningReport`), `published` (cid), `charged` (receipt_id,
    tokens, charge), `registered` (version_id).
    """

    job_id: str
    seq: int
    at: datetime
    kind: str
    data: Mapping[str, Any]
