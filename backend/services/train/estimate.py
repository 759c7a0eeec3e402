"""Estimates steps, tokens, price and duration of a job from a sample of its rows."""

from __future__ import annotations

import math
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backend.domain.dataset import messages_of
from backend.domain.errors import Overloaded, Unavailable
from backend.domain.training_payment import charged_tokens, max_charged_tokens
from backend.services.train.jobs import check_snapshot
from backend.services.train.options import parse_config
from backend.services.train.payments import stated_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Hash32, SnapshotId
    from backend.domain.training import TrainingConfig, TrainingJob
    from backend.ports.training import SnapshotRows
    from backend.services.train.payments import Payments

    Rows = Sequence[tuple[int, Mapping[str, Any]]]

MAX_SAMPLE = 2_000
"""Rows that are tokenised."""
MAX_SAMPLE_CHARACTERS = 16 << 20
"""Characters that are tokenised: of long rows there are fewer in the sample."""
CHARACTERS_PER_TOKEN = 16
"""More than the tokens of a row have on average, so that its beginning has all tokens that training reads."""
MAX_RUNNING = 4
"""Estimates that are made at once, one for each account: each has a sample in memory."""
READ_SECONDS = 60.0
"""Time for reading a sample, whose contributions other operators may have to send first."""
WAIT_SECONDS = 30.0
"""Time for the estimates before: each tokenises in a process that loads a model's libraries."""
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
    """Estimate of a job. `num_rows` is what the snapshot's contributions state. All other counts are
    extrapolated if the snapshot is larger than the sample: one row of each of as many equal parts of the
    snapshot as fit in `MAX_SAMPLE` and `MAX_SAMPLE_CHARACTERS`, drawn at random, the same each time. A row
    that is stated and does not exist counts as left out.

    `num_tokens` go through the model and `num_trained_tokens` carry loss, counted once per epoch. The job is
    charged for `num_charged_tokens`, those of at least one epoch, at `price` token units per million;
    `max_tokens` is an upper bound of their number. `seconds` is based on the speed of the newest jobs; None
    if none has succeeded.
    """

    num_rows: int
    num_left_out: int
    num_cut: int
    num_train_rows: int
    num_eval_rows: int
    num_steps: int
    num_tokens: int
    num_trained_tokens: int
    num_charged_tokens: int
    max_tokens: int
    price: int
    seconds: int | None
    examples: Sequence[TokenisedRow]

    @property
    def charge(self) -> int:
        """Micro-units."""
        return self.num_charged_tokens * self.price

    @property
    def max_charge(self) -> int:
        """Micro-units that are reserved on the channel until the job ends."""
        return self.max_tokens * self.price


class Estimates:
    """`tokenisers`: by the digest of their base model. Makes few estimates at once, and tokenises for one of
    them at a time.
    """

    def __init__(
        self,
        db: Database,
        snapshots: SnapshotRows,
        tokenisers: Mapping[Hash32, Tokeniser],
        payments: Payments,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._snapshots = snapshots
        self._tokenisers = tokenisers
        self._payments = payments
        self._clock = clock
        self._running: set[Account] = set()
        self._changes, self._tokenising = threading.Lock(), threading.Lock()

    def estimate(
        self,
        account: Account,
        snapshot_id: SnapshotId,
        options: Mapping[str, Any],
        base: Hash32 | None = None,
    ) -> Estimate:
        """`account`: who asks. `base`: as in `Training.create`.

        Errors: those of `Training.create`, of reading the rows, `Overloaded`, and `Unavailable`.
        """
        config = parse_config(options)
        with self._db.read() as tx:
            base = self._payments.base_of(tx.chain, config, base)
            check_snapshot(tx, snapshot_id)
            jobs = [job for job in tx.training.find(None, NUM_JOBS) if job.base == base]
            num_rows = stated_rows(tx.chain, snapshot_id)
        with self._run(account):
            places = _draw_places(num_rows, config.max_length)
            sample = self._read(snapshot_id, places, CHARACTERS_PER_TOKEN * config.max_length)
            counts = self._tokenise(sample, config, self._tokenisers[base])
        seconds, price = _seconds_per_token(jobs), self._payments.price(base)
        return _estimate(config, num_rows, len(places), counts, seconds, price)

    @contextmanager
    def _run(self, account: Account) -> Iterator[None]:
        """Errors: `Overloaded`."""
        with self._changes:
            if account in self._running:
                raise Overloaded("another estimate of yours is being made: wait for it")
            if len(self._running) >= MAX_RUNNING:
                raise Overloaded("other estimates are being made: try again in a few seconds")
            self._running.add(account)
        try:
            yield
        finally:
            with self._changes:
                self._running.remove(account)

    def _read(self, snapshot_id: SnapshotId, places: Sequence[int], size: int) -> Rows:
        """The sample's rows, as far as `beginning_of` keeps them. Errors: `Unavailable`."""
        ends_at = self._clock() + READ_SECONDS
        sample = []
        for contribution, row in self._snapshots.rows_at(snapshot_id, places):
            sample.append((contribution, beginning_of(row, size)))
            if self._clock() > ends_at:
                raise Unavailable(
                    f"reading the rows takes more than {READ_SECONDS:.0f} s, because other operators have to "
                    "send them: what has come is stored, try again"
                )
        return sample

    def _tokenise(self, sample: Rows, config: TrainingConfig, tokeniser: Tokeniser) -> Tokenisation:
        """Errors: `Overloaded`; as `Tokeniser.tokenise`."""
        if not self._tokenising.acquire(timeout=WAIT_SECONDS):
            raise Overloaded("other estimates are being made: try again in a few seconds")
        try:
            return tokeniser.tokenise(sample, config, NUM_EXAMPLES)
        finally:
            self._tokenising.release()


def _estimate(
    config: TrainingConfig,
    num_rows: int,
    num_sampled: int,
    counts: Tokenisation,
    seconds_per_token: float | None,
    price: int,
) -> Estimate:
    scale = num_rows / max(1, num_sampled)
    num_usable = round(counts.num_usable * scale)
    num_eval = min(num_usable, max(1, round(config.eval_fraction * num_usable)))
    trained = (num_usable - num_eval) / max(1, num_usable) * scale
    num_sequences = math.ceil(counts.num_sequences * trained)
    steps_per_epoch = math.ceil(num_sequences / config.batch_size)
    num_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    epochs = num_steps / max(1, steps_per_epoch)
    num_charged = round(counts.num_tokens * trained * max(1.0, epochs))
    return Estimate(
        num_rows=num_rows,
        num_left_out=num_rows - num_usable,
        num_cut=round(counts.num_cut * scale),
        num_train_rows=num_usable - num_eval,
        num_eval_rows=num_eval,
        num_steps=num_steps if num_usable > num_eval else 0,
        num_tokens=round(counts.num_tokens * trained * epochs),
        num_trained_tokens=round(counts.num_trained * trained * epochs),
        num_charged_tokens=num_charged,
        max_tokens=max_charged_tokens(config, num_rows),
        price=price,
        seconds=None if seconds_per_token is None else math.ceil(num_charged * seconds_per_token),
        examples=counts.examples,
    )


def _draw_places(num_rows: int, max_length: int) -> Sequence[int]:
    """Places of the sample's rows, rising."""
    draw = random.Random(0)  # noqa: S311 - the same sample each time, not a secret
    num_parts = min(num_rows, MAX_SAMPLE, MAX_SAMPLE_CHARACTERS // (CHARACTERS_PER_TOKEN * max_length))
    return [
        draw.randrange(part * num_rows // num_parts, (part + 1) * num_rows // num_parts)
        for part in range(num_parts)
    ]


def beginning_of(row: Mapping[str, Any], size: int) -> Mapping[str, Any]:
    """The row's first characters, with the tokens that training reads of it. A message counts as
    `CHARACTERS_PER_TOKEN` more: templates and ends of turns add tokens.
    """
    if "text" in row:
        return {"text": row["text"][:size]}
    messages: list[Mapping[str, str]] = []
    for message in messages_of(row):
        content = message["content"].strip()[: max(0, size)]
        messages.append({"role": message["role"], "content": content})
        size -= len(content) + CHARACTERS_PER_TOKEN
        if size <= 0 and message["role"] != "system":  # templates may refuse a system prompt alone
            break
    if messages[-1]["role"] != "assistant":  # a conversation is read up to its last answer
        messages.append({"role": "assistant", "content": ""})
    return {"messages": messages}


def _seconds_per_token(jobs: Sequence[TrainingJob]) -> float | None:
    """Seconds per charged token, including evaluation and index, whose work grows with the rows even if
    little of an epoch is trained.
    """
    measured = [
        (job.result.metrics["train_seconds"], tokens)
        for job in jobs
        if job.result is not None and "train_seconds" in job.result.metrics
        if (tokens := charged_tokens(job))
    ]
    num_tokens = sum(tokens for _, tokens in measured)
    return sum(seconds for seconds, _ in measured) / num_tokens if num_tokens else None
