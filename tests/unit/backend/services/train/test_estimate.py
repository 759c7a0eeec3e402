from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import NotFound, Overloaded
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
        self.rows: Any = []
        self.rows_per_sequence = rows_per_sequence

    def tokenise(self, rows: Any, config: TrainingConfig, num_examples: int) -> Tokenisation:
        self.rows = rows
        usable = len(rows) * 9 // 10
        return Tokenisation(usable, 3, 10 * usable, 4 * usable, usable // self.rows_per_sequence, (SHOWN,))


def estimated(
    harness: JobHarness, num_rows: int, tokeniser: Tokeniser | None = None, **options: Any
) -> Estimate:
    return estimated_of(harness, letter_rows(num_rows), num_rows, tokeniser, **options)


def estimated_of(
    harness: JobHarness, rows: Any, num_rows: int, tokeniser: Tokeniser | None = None, **options: Any
) -> Estimate:
    """`num_rows`: what the contribution states."""
    tokenisers = {BASE.digest: tokeniser or Tokeniser()}
    estimates = Estimates(harness.database, InMemoryRows(rows), tokenisers, PAID)
    return estimates.estimate(harness.snapshot(True, num_rows=num_rows), options)


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
    assert len(tokeniser.rows) == 50
    assert (found.num_rows, found.num_left_out, found.num_train_rows) == (500, 50, 405)
    assert found.num_tokens == 2 * 4050


def test_the_sample_has_one_row_of_each_equal_part(
    harness: JobHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLE", 50)
    rows = [(place, {"text": str(place)}) for place in range(500)]
    drawn = [Tokeniser(), Tokeniser()]
    for tokeniser in drawn:
        estimated_of(harness, rows, 500, tokeniser)
    places = [place for place, _ in drawn[0].rows]
    assert [place // 10 for place in places] == list(range(50))
    assert len({place % 10 for place in places}) > 5
    assert drawn[0].rows == drawn[1].rows


def test_rows_that_are_stated_and_do_not_exist_are_left_out(harness: JobHarness) -> None:
    found = estimated_of(harness, letter_rows(50), 100)
    assert (found.num_rows, found.num_left_out, found.num_train_rows) == (100, 55, 41)
    assert estimated_of(harness, [], 100).num_steps == estimated_of(harness, [], 0).num_steps == 0


def test_of_long_rows_fewer_are_drawn_and_no_more_than_their_beginning(harness: JobHarness) -> None:
    long = "x" * 100_000
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 1000
    shapes: list[Any] = [{"prompt": long, "completion": long}, {"text": long}, {"messages": turns}]
    tokeniser = Tokeniser()
    estimated_of(harness, [(0, row) for row in shapes * 2000], 6000, tokeniser, max_length=16)
    assert len(tokeniser.rows) == 2000
    beginnings = [json.dumps(row) for _, row in tokeniser.rows]
    assert max(map(len, beginnings)) < 1000
    estimated_of(harness, [(0, row) for row in shapes * 2000], 6000, tokeniser, max_length=8192, batch_size=8)
    assert len(tokeniser.rows) == 128


def test_rows_are_not_read_while_another_estimate_is_made(harness: JobHarness) -> None:
    refused: list[str] = []

    class Nested(Tokeniser):
        def tokenise(self, rows: Any, config: TrainingConfig, num_examples: int) -> Tokenisation:
            with pytest.raises(Overloaded) as error:
                estimates.estimate(snapshot, {})
            refused.append(error.value.message)
            return super().tokenise(rows, config, num_examples)

    snapshot = harness.snapshot(True, num_rows=10)
    rows = InMemoryRows(letter_rows(10))
    estimates = Estimates(harness.database, rows, {BASE.digest: Nested()}, PAID)
    for _ in range(2):
        assert estimates.estimate(snapshot, {}).num_rows == 10
    assert refused == ["another estimate is being made: try again in a few seconds"] * 2


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
