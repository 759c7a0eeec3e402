from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import NotFound
from backend.domain.ids import Hash32, SnapshotId
from backend.domain.training import EmptySnapshot, Step
from backend.services.train import estimate as module
from backend.services.train.estimate import Estimate, Estimates, Tokenisation, TokenisedRow
from backend.services.train.options import InvalidConfig
from tests.unit.workers.support import BASE, PAID, RESULT, TRAINING, InMemoryRows, JobHarness, letter_rows

if TYPE_CHECKING:
    from backend.domain.training import TrainingConfig

PRICE = TRAINING.prompt_price
SHOWN = TokenisedRow(0, ("What", "is?"), (False, True))


class Tokeniser:
    """10 tokens a row, 4 of them learnt; one row in ten is left out."""

    def __init__(self, rows_per_sequence: int = 1) -> None:
        self.num_asked = 0
        self.rows_per_sequence = rows_per_sequence

    def tokenise(self, rows: Any, config: TrainingConfig, num_examples: int) -> Tokenisation:
        self.num_asked = len(rows)
        usable = len(rows) * 9 // 10
        return Tokenisation(usable, 3, 10 * usable, 4 * usable, usable // self.rows_per_sequence, (SHOWN,))


def estimated(
    harness: JobHarness, num_rows: int, tokeniser: Tokeniser | None = None, **options: Any
) -> Estimate:
    rows = InMemoryRows(letter_rows(num_rows))
    estimates = Estimates(harness.database, rows, {BASE.digest: tokeniser or Tokeniser()}, PAID)
    return estimates.estimate(harness.snapshot(True, True), options)


def test_steps_and_tokens_are_those_of_the_rows_that_are_trained_on(harness: JobHarness) -> None:
    found = estimated(harness, 100, epochs=2, batch_size=8)
    assert (found.num_rows, found.num_left_out, found.num_cut) == (100, 10, 3)
    assert (found.num_train_rows, found.num_eval_rows) == (81, 9)
    assert found.num_steps == 22  # 11 an epoch
    assert (found.num_tokens, found.num_trained_tokens) == (1620, 648)
    assert found.examples == (SHOWN,)


def test_the_price_is_that_of_the_tokens_that_carry_loss(harness: JobHarness) -> None:
    found = estimated(harness, 100, epochs=2, batch_size=8, max_length=100)
    assert (found.charge, found.price) == (648 * PRICE, PRICE)
    assert found.max_charge == 2 * 100 * 99 * PRICE  # every row, as long as it may be


def test_packed_rows_take_fewer_steps_for_the_same_tokens(harness: JobHarness) -> None:
    found = estimated(harness, 100, Tokeniser(rows_per_sequence=3), packing=True)
    assert (found.num_steps, found.num_tokens) == (8, 1620)


def test_a_number_of_steps_replaces_epochs(harness: JobHarness) -> None:
    found = estimated(harness, 100, steps=11)
    assert (found.num_steps, found.num_tokens) == (11, 810)


def test_more_rows_than_the_sample_are_projected(
    harness: JobHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLE", 50)
    tokeniser = Tokeniser()
    found = estimated(harness, 500, tokeniser)
    assert tokeniser.num_asked == 50
    assert (found.num_rows, found.num_left_out, found.num_train_rows) == (500, 50, 405)
    assert found.num_tokens == 2 * 4050


def test_the_time_is_that_of_the_jobs_before(harness: JobHarness) -> None:
    assert estimated(harness, 100).seconds is None
    held = harness.create_leased()
    metrics = {**RESULT.metrics, "train_seconds": 50.0, "num_trained_tokens": 100}
    with harness.database.begin() as tx:
        job = tx.training.locked(held.job.id)
        assert job is not None
        tx.training.save(replace(job, result=replace(RESULT, metrics=metrics)))
    assert held.job.step is Step.VALIDATE
    assert estimated(harness, 100).seconds == 324


def test_nothing_usable_is_no_step(harness: JobHarness) -> None:
    assert estimated(harness, 1).num_steps == 0


def test_an_estimate_is_refused_for_the_same_reasons_as_a_job(harness: JobHarness) -> None:
    with pytest.raises(InvalidConfig):
        estimated(harness, 10, rank=0)
    estimates = Estimates(harness.database, InMemoryRows(letter_rows()), {BASE.digest: Tokeniser()}, PAID)
    with pytest.raises(NotFound):
        estimates.estimate(SnapshotId(Hash32("0x" + "00" * 32)), {})
    with pytest.raises(EmptySnapshot):
        estimates.estimate(harness.snapshot(False), {})
