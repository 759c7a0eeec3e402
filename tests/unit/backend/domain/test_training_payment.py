from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from backend.domain.hashing import version_id
from backend.domain.ids import ChannelId, SnapshotId
from backend.domain.money import PPM
from backend.domain.receipt import Slice
from backend.domain.split import charge, split
from backend.domain.training import JobState, Lease, Payment, TrainingConfig, TrainingJob, TrainingResult
from backend.domain.training_payment import (
    charged_tokens,
    max_charged_tokens,
    request_bytes,
    training_record,
)
from tests.support.market import some_account, some_hash
from workers.training.rows import Example, pack_rows, plan_batches

RECORD = training_record(some_account("operator"), some_hash("base model"), 400_000)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = TrainingJob(
    id="ftjob-1",
    creator=some_account("creator"),
    snapshot_id=SnapshotId(some_hash("snapshot")),
    config=TrainingConfig(rank=4),
    state=JobState.QUEUED,
    created_at=NOW,
    lease=Lease(None, NOW),
)


@given(
    recorded=st.integers(1, 60),
    left_out=st.integers(0, 59),
    batch_size=st.integers(1, 12),
    epochs=st.floats(0.01, 4.0),
    steps=st.integers(0, 40),
)
@example(recorded=17, left_out=1, batch_size=8, epochs=1.5, steps=0)
@example(recorded=9, left_out=0, batch_size=8, epochs=0.01, steps=0)
@example(recorded=20, left_out=15, batch_size=8, epochs=1.0, steps=7)
@example(recorded=60, left_out=1, batch_size=1, epochs=1.0, steps=1)
def test_neither_a_plan_nor_an_epoch_has_more_tokens_than_reserved(
    recorded: int, left_out: int, batch_size: int, epochs: float, steps: int
) -> None:
    """However many rows are held out, unusable, or packed into others: a place holds `max_length` tokens."""
    config = TrainingConfig(batch_size=batch_size, epochs=epochs, steps=steps, max_length=64)
    num_used = max(1, recorded - left_out)
    plan = plan_batches(num_used, batch_size, epochs, 0, steps)
    assert max(sum(map(len, plan)), num_used) * 64 <= max_charged_tokens(config, recorded)


@given(
    lengths=st.lists(st.integers(2, 64), min_size=1, max_size=60),
    epochs=st.floats(0.01, 4.0),
    steps=st.integers(0, 40),
)
@example(lengths=[64] * 60, epochs=0.01, steps=0)
@example(lengths=[2] * 60, epochs=1.0, steps=1)
def test_packed_rows_are_charged_no_more_than_reserved(lengths: list[int], epochs: float, steps: int) -> None:
    rows = [Example(0, str(i), (1,) * length, (1,) * length) for i, length in enumerate(lengths)]
    config = TrainingConfig(batch_size=8, epochs=epochs, steps=steps, max_length=64, packing=True)
    sequences = [sum(len(row.token_ids) for row in packed) for packed in pack_rows(rows, config.max_length)]
    plan = plan_batches(len(sequences), config.batch_size, epochs, 0, steps)
    trained = sum(sequences[place] for step in plan for place in step)
    assert max(trained, sum(sequences)) <= max_charged_tokens(config, len(rows))


@given(
    rows=st.integers(0, 10_000),
    more=st.integers(0, 1000),
    batch_size=st.integers(1, 256),
    steps=st.integers(0, 50),
)
def test_more_rows_never_reserve_less(rows: int, more: int, batch_size: int, steps: int) -> None:
    config = TrainingConfig(batch_size=batch_size, steps=steps)
    assert max_charged_tokens(config, rows) <= max_charged_tokens(config, rows + more)


def test_a_job_is_charged_what_its_result_counts_and_no_more_than_it_reserved() -> None:
    def charged(metrics: dict[str, float] | None, max_tokens: int | None = None) -> int | None:
        result = None if metrics is None else TrainingResult(some_hash("a"), some_hash("b"), metrics)
        channel, version = ChannelId(some_hash("channel")), version_id(RECORD)
        payment = None if max_tokens is None else Payment(channel, version, 1, max_tokens)
        return charged_tokens(replace(JOB, result=result, payment=payment))

    counted = {"num_trained_tokens": 7, "num_charged_tokens": 90}
    assert charged(counted) == charged(counted, 90) == 90
    assert charged(counted, 89) == 89
    assert charged({"num_trained_tokens": 7}) == charged({"num_trained_tokens": 7}, 90) == 7
    assert charged(None) is charged({"general_loss_base": 4.0}) is None


def test_the_training_record_prices_trained_tokens_only() -> None:
    slices = (Slice(some_hash("version"), PPM, ()),)  # type: ignore[arg-type]
    assert RECORD.is_training
    assert not replace(RECORD, name="tiny").is_training
    assert not replace(RECORD, adapter_digest=some_hash("adapter")).is_training
    assert charge(slices, [RECORD], 1_000_000, 0) == 400_000 * PPM


@given(amount=st.integers(0, 1 << 64), fee_ppm=st.integers(0, PPM))
def test_the_operator_earns_all_but_the_fee(amount: int, fee_ppm: int) -> None:
    """The operator is also the record's creator. An odd micro-unit goes to the treasury."""
    parts = split(amount, fee_ppm, RECORD.operator_ppm, RECORD.creator_ppm, ())
    assert parts.fee + parts.operator + parts.creator + sum(parts.contributors) == amount
    assert sum(parts.contributors) <= 1
    assert Fraction(parts.fee) <= Fraction(amount * fee_ppm, PPM)


def test_request_bytes_are_canonical() -> None:
    text = request_bytes(JOB)
    assert text.startswith(b'{"hyperparameters":{"alpha":16,"batch_size":8,')
    asked = json.loads(text)
    assert (asked["id"], asked["snapshot_id"]) == (JOB.id, JOB.snapshot_id)
    assert asked["hyperparameters"] == {**asdict(JOB.config), "targets": list(JOB.config.targets)}
