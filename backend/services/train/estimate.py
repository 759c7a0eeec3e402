"""Estimates steps, tokens, price and duration of a job from a sample of its rows."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backend.domain.training_payment import max_trained_tokens
from backend.services.train.jobs import check_snapshot
from backend.services.train.options import parse_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32, SnapshotId
    from backend.domain.training import TrainingConfig, TrainingJob
    from backend.ports.training import SnapshotRows
    from backend.services.train.payments import Payments

    Rows = Sequence[tuple[int, Mapping[str, Any]]]

MAX_SAMPLE = 2_000
"""Rows that are tokenised. From larger snapshots a deterministic random sample is drawn."""
NUM_EXAMPLES = 3
NUM_JOBS = 20
"""Newest jobs, of which those of the same base model tell the speed of training."""


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """The tokens of a row, truncated as in training, and which of them are trained."""

    contribution: int
    tokens: Sequence[str]
    is_trained: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Tokenisation:
    """Counts of a sample. Rows without a trained token within the limit are not usable."""

    num_usable: int
    num_cut: int
    num_tokens: int
    """Tokens of the usable rows; the counts below are of usable rows too."""
    num_trained: int
    num_sequences: int
    """Sequences of a batch that the rows fill: fewer than rows with packing."""
    examples: Sequence[TokenisedRow]


class Tokeniser(Protocol):
    def tokenise(self, rows: Rows, config: TrainingConfig, num_examples: int) -> Tokenisation:
        """Errors: `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of a job. All counts except `num_rows` are extrapolated if the snapshot is larger than the
    sample.

    `num_tokens` go through the model and `num_trained_tokens` carry loss, counted once per epoch. `seconds`
    is based on the speed of the newest jobs; None if none has succeeded. Tokens with loss are paid for, at
    `price` token units per million; `max_tokens` is an upper bound of their number.
    """

    num_rows: int
    num_left_out: int
    num_cut: int
    num_train_rows: int
    num_eval_rows: int
    num_steps: int
    num_tokens: int
    num_trained_tokens: int
    max_tokens: int
    price: int
    seconds: int | None
    examples: Sequence[TokenisedRow]

    @property
    def charge(self) -> int:
        """Micro-units."""
        return self.num_trained_tokens * self.price

    @property
    def max_charge(self) -> int:
        """Micro-units that are reserved on the channel until the job ends."""
        return self.max_tokens * self.price


class Estimates:
    """`tokenisers`: by the digest of their base model."""

    def __init__(
        self,
        db: Database,
        snapshots: SnapshotRows,
        tokenisers: Mapping[Hash32, Tokeniser],
        payments: Payments,
    ) -> None:
        self._db = db
        self._snapshots = snapshots
        self._tokenisers = tokenisers
        self._payments = payments

    def estimate(
        self, snapshot_id: SnapshotId, options: Mapping[str, Any], base: Hash32 | None = None
    ) -> Estimate:
        """`base`: as in `Training.create`.

        Errors: those of `Training.create`, of reading the rows, and `Unavailable`.
        """
        config = parse_config(options)
        with self._db.read() as tx:
            base = self._payments.base_of(tx.chain, config, base)
            check_snapshot(tx, snapshot_id)
            jobs = [job for job in tx.training.find(None, NUM_JOBS) if job.base == base]
        sample, num_rows = _draw_sample(self._snapshots.rows(snapshot_id))
        counts = self._tokenisers[base].tokenise(sample, config, NUM_EXAMPLES)
        seconds, price = _seconds_per_token(jobs), self._payments.price(base)
        return _estimate(config, num_rows, len(sample), counts, seconds, price)


def _estimate(
    config: TrainingConfig,
    num_rows: int,
    num_sampled: int,
    counts: Tokenisation,
    seconds_per_token: float | None,
    price: int,
) -> Estimate:
    scale = num_rows / num_sampled
    num_usable = round(counts.num_usable * scale)
    num_eval = min(num_usable, max(1, round(config.eval_fraction * num_usable)))
    trained = (num_usable - num_eval) / max(1, num_usable) * scale
    num_sequences = math.ceil(counts.num_sequences * trained)
    steps_per_epoch = math.ceil(num_sequences / config.batch_size)
    num_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    epochs = num_steps / max(1, steps_per_epoch)
    num_trained = round(counts.num_trained * trained * epochs)
    return Estimate(
        num_rows=num_rows,
        num_left_out=num_rows - num_usable,
        num_cut=round(counts.num_cut * scale),
        num_train_rows=num_usable - num_eval,
        num_eval_rows=num_eval,
        num_steps=num_steps if num_usable > num_eval else 0,
        num_tokens=round(counts.num_tokens * trained * epochs),
        num_trained_tokens=num_trained,
        max_tokens=max_trained_tokens(config, num_rows),
        price=price,
        seconds=None if seconds_per_token is None else math.ceil(num_trained * seconds_per_token),
        examples=counts.examples,
    )


def _draw_sample(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Rows, int]:
    """(uniform sample, number of rows), by reservoir sampling."""
    draw = random.Random(0)  # noqa: S311 - the same sample each time, not a secret
    sample: list[tuple[int, Mapping[str, Any]]] = []
    num_rows = 0
    for row in rows:
        num_rows += 1
        if len(sample) < MAX_SAMPLE:
            sample.append(row)
        elif (index := draw.randrange(num_rows)) < MAX_SAMPLE:
            sample[index] = row
    return sample, num_rows


def _seconds_per_token(jobs: Sequence[TrainingJob]) -> float | None:
    """Seconds per trained token, including evaluation and index."""
    metrics = [job.result.metrics for job in jobs if job.result is not None]
    measured = [each for each in metrics if "train_seconds" in each and each.get("num_trained_tokens")]
    num_tokens = sum(each["num_trained_tokens"] for each in measured)
    return sum(each["train_seconds"] for each in measured) / num_tokens if num_tokens else None
