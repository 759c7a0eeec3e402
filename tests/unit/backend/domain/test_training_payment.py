from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from backend.domain.ids import SnapshotId
from backend.domain.money import PPM
from backend.domain.receipt import Slice
from backend.domain.split import charge, split
from backend.domain.training import JobState, Lease, TrainingConfig, TrainingJob
from backend.domain.training_payment import max_trained_tokens, request_bytes, training_record
from tests.support.market import some_account, some_hash
from workers.training.rows import plan_batches

RECORD = training_record(some_account("operator"), some_hash("base model"), 400_000)


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
def test_no_plan_trains_more_tokens_than_reserved(
    recorded: int, left_out: int, batch_size: int, epochs: float, steps: int
) -> None:
    """However many rows are held out, unusable, or packed into others: a place holds `max_length` tokens, and
    the first is learnt from nothing.
    """
    config = TrainingConfig(batch_size=batch_size, epochs=epochs, steps=steps, max_length=64)
    num_used = max(1, recorded - left_out)
    plan = plan_batches(num_used, batch_size, epochs, 0, steps)
    assert sum(map(len, plan)) * 63 <= max_trained_tokens(config, recorded)


@given(rows=st.integers(0, 10_000), more=st.integers(0, 1000), batch_size=st.integers(1, 256))
def test_more_rows_never_reserve_less(rows: int, more: int, batch_size: int) -> None:
    config = TrainingConfig(batch_size=batch_size)
    assert max_trained_tokens(config, rows) <= max_trained_tokens(config, rows + more)


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
    now = datetime(2026, 1, 1, tzinfo=UTC)
    snapshot, lease = SnapshotId(some_hash("snapshot")), Lease(None, now)
    config = TrainingConfig(rank=4)
    job = TrainingJob("ftjob-1", some_account("c"), snapshot, config, JobState.QUEUED, now, lease)
    text = request_bytes(job)
    assert text.startswith(b'{"hyperparameters":{"alpha":16,"batch_size":8,')
    asked = json.loads(text)
    assert (asked["id"], asked["snapshot_id"]) == (job.id, snapshot)
    assert asked["hyperparameters"] == {**asdict(config), "targets": list(config.targets)}
