"""What a job would be, before it is one: steps, tokens, time, and rows as the model will see them."""

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
    from backend.domain.ids import SnapshotId
    from backend.domain.training import TrainingConfig, TrainingJob
    from backend.ports.training import SnapshotRows

    Rows = Sequence[tuple[int, Mapping[str, Any]]]

MAX_SAMPLE = 2_000
"""Rows that are tokenised; of more, as many drawn at random, the same each time."""
NUM_SHOWN = 3
NUM_JOBS = 20
"""The newest jobs, of which those that succeeded say how fast training is here."""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row of a contribution, token by token, cut where training cuts it."""

    contribution: int
    tokens: Sequence[str]
    is_learnt: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Tokenised:
    """What training would make of some rows. Those without a learnt token within the limit are left out."""

    num_usable: int
    num_cut: int
    num_tokens: int
    """Of the usable rows, as are those below."""
    num_learnt: int
    num_sequences: int
    """Places of a step that they fill: fewer than rows where they are packed."""
    shown: Sequence[ShownRow]


class Tokeniser(Protocol):
    def tokenise(self, rows: Rows, config: TrainingConfig, num_shown: int) -> Tokenised:
        """Errors: `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """Counts beyond `num_rows` are projected from a sample where the snapshot has more rows than that has.

    `num_tokens` go through the model and `num_learnt_tokens` carry loss, each once an epoch. `seconds` of
    work by the pace of the newest jobs here; None where none has succeeded yet. The tokens that carry loss
    are paid for, at `price` token units per million; `max_tokens` of them are more than any such job has.
    """

    num_rows: int
    num_left_out: int
    num_cut: int
    num_train_rows: int
    num_eval_rows: int
    num_steps: int
    num_tokens: int
    num_learnt_tokens: int
    max_tokens: int
    price: int
    seconds: int | None
    shown: Sequence[ShownRow]

    @property
    def charge(self) -> int:
        """Micro-units."""
        return self.num_learnt_tokens * self.price

    @property
    def max_charge(self) -> int:
        """Micro-units that are kept on the channel while the job goes on."""
        return self.max_tokens * self.price


class Estimates:
    """`price`: token units per million tokens trained."""

    def __init__(self, db: Database, snapshots: SnapshotRows, tokeniser: Tokeniser, price: int) -> None:
        self._db = db
        self._snapshots = snapshots
        self._tokeniser = tokeniser
        self._price = price

    def estimate(self, snapshot_id: SnapshotId, options: Mapping[str, Any]) -> Estimate:
        """Errors: those of `Training.create`, of reading the rows, and `Unavailable`."""
        config = parse_config(options)
        with self._db.read() as tx:
            check_snapshot(tx, snapshot_id)
            jobs = tx.training.find(None, NUM_JOBS)
        sample, num_rows = _sampled(self._snapshots.rows(snapshot_id))
        found = self._tokeniser.tokenise(sample, config, NUM_SHOWN)
        return _estimate(config, num_rows, len(sample), found, _seconds_per_token(jobs), self._price)


def _estimate(
    config: TrainingConfig,
    num_rows: int,
    num_sampled: int,
    found: Tokenised,
    pace: float | None,
    price: int,
) -> Estimate:
    scale = num_rows / num_sampled
    num_usable = round(found.num_usable * scale)
    num_eval = min(num_usable, max(1, round(config.eval_fraction * num_usable)))
    trained = (num_usable - num_eval) / max(1, num_usable) * scale
    num_sequences = math.ceil(found.num_sequences * trained)
    steps_per_epoch = math.ceil(num_sequences / config.batch_size)
    num_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    epochs = num_steps / max(1, steps_per_epoch)
    num_learnt = round(found.num_learnt * trained * epochs)
    return Estimate(
        num_rows=num_rows,
        num_left_out=num_rows - num_usable,
        num_cut=round(found.num_cut * scale),
        num_train_rows=num_usable - num_eval,
        num_eval_rows=num_eval,
        num_steps=num_steps if num_usable > num_eval else 0,
        num_tokens=round(found.num_tokens * trained * epochs),
        num_learnt_tokens=num_learnt,
        max_tokens=max_trained_tokens(config, num_rows),
        price=price,
        seconds=None if pace is None else math.ceil(num_learnt * pace),
        shown=found.shown,
    )


def _sampled(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Rows, int]:
    """(some of them, each as likely as any other, and how many there are)."""
    draw = random.Random(0)  # noqa: S311 - the same sample each time, not a secret
    kept: list[tuple[int, Mapping[str, Any]]] = []
    num_rows = 0
    for row in rows:
        num_rows += 1
        if len(kept) < MAX_SAMPLE:
            kept.append(row)
        elif (place := draw.randrange(num_rows)) < MAX_SAMPLE:
            kept[place] = row
    return kept, num_rows


def _seconds_per_token(jobs: Sequence[TrainingJob]) -> float | None:
    """Of a token that is learnt, evaluation and index included."""
    metrics = [job.result.metrics for job in jobs if job.result is not None]
    measured = [each for each in metrics if "train_seconds" in each and each.get("num_trained_tokens")]
    num_tokens = sum(each["num_trained_tokens"] for each in measured)
    return sum(each["train_seconds"] for each in measured) / num_tokens if num_tokens else None
