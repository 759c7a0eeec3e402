from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import NotFound, Overloaded, Unavailable
from backend.domain.ids import Hash32, SnapshotId
from backend.domain.training import EmptySnapshot, Step
from backend.services.train import estimate as module
from backend.services.train.estimate import Estimate, Estimates, Tokenisation, TokenisedRow
from backend.services.train.options import InvalidConfig
from tests.support.market import some_account
from tests.unit.workers.support import BASE, PAID, RESULT, TRAINING, InMemoryRows, JobHarness, letter_rows

if TYPE_CHECKING:
    from backend.domain.training import TrainingConfig

ASKING = some_account("asking")
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
    return estimates.estimate(ASKING, harness.snapshot(True, num_rows=num_rows), options)


def test_steps_and_tokens_are_those_of_the_rows_that_are_trained_on(harness: JobHarness) -> None:
    found = estimated(harness, 100, epochs=2, batch_size=8)
    assert (found.num_rows, found.num_left_out, found.num_cut) == (100, 10, 3)
    assert (found.num_train_rows, found.num_eval_rows) == (81, 9)
    assert found.num_steps == 22  # 11 an epoch
    assert (found.num_tokens, found.num_trained_tokens) == (1620, 648)
    assert found.examples == (SHOWN,)


def test_the_price_is_that_of_all_tokens_that_go_through_the_model(harness: JobHarness) -> None:
    found = estimated(harness, 100, epochs=2, batch_size=8, max_length=100)
    assert (found.charge, found.price) == (1620 * PRICE, PRICE)
    assert found.max_charge == 2 * 100 * 100 * PRICE  # every row, as long as it may be


@pytest.mark.parametrize("options", [{"steps": 1}, {"epochs": 0.01}])
def test_less_than_an_epoch_costs_an_epoch(harness: JobHarness, options: dict[str, Any]) -> None:
    found = estimated(harness, 100, max_length=100, **options)
    assert (found.num_steps, found.num_tokens, found.num_charged_tokens) == (1, 74, 810)
    assert (found.charge, found.max_charge) == (810 * PRICE, 100 * 100 * PRICE)


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


def test_an_account_makes_one_estimate_at_a_time_and_all_together_few(
    harness: JobHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    class Nested(Tokeniser):
        def tokenise(self, rows: Any, config: TrainingConfig, num_examples: int) -> Tokenisation:
            for account in (ASKING, some_account("other")):
                with pytest.raises(Overloaded) as error:
                    estimates.estimate(account, snapshot, {})
                refused.append(error.value.message)
            return super().tokenise(rows, config, num_examples)

    monkeypatch.setattr(module, "MAX_RUNNING", 1)
    snapshot = harness.snapshot(True, num_rows=10)
    rows = InMemoryRows(letter_rows(10))
    estimates = Estimates(harness.database, rows, {BASE.digest: Nested()}, PAID)
    for _ in range(2):
        assert estimates.estimate(ASKING, snapshot, {}).num_rows == 10
    assert ["of yours" in message for message in refused] == [True, False] * 2


def test_rows_that_are_slow_to_come_do_not_hold_an_estimate_for_long(harness: JobHarness) -> None:
    now = itertools.count(step=module.READ_SECONDS / 5)
    rows = InMemoryRows(letter_rows(10))
    tokenisers = {BASE.digest: Tokeniser()}
    estimates = Estimates(harness.database, rows, tokenisers, PAID, lambda: next(now))
    snapshot = harness.snapshot(True, num_rows=10)
    for _ in range(2):
        with pytest.raises(Unavailable, match="try again"):
            estimates.estimate(ASKING, snapshot, {})


@pytest.mark.parametrize("length", [10, 1000])
def test_the_beginning_of_a_conversation_has_the_users_first_message(length: int) -> None:
    contents = {"system": "s" * length, "user": "u" * length, "assistant": "a"}
    row = {"messages": [{"role": role, "content": content} for role, content in contents.items()]}
    beginning = module.beginning_of(row, 100)["messages"]
    assert [message["role"] for message in beginning] == ["system", "user", "assistant"]
    assert sum(len(message["content"]) for message in beginning) <= 100


def test_the_time_is_that_of_the_jobs_before(harness: JobHarness) -> None:
    assert estimated(harness, 100).seconds is None
    held = harness.create_leased()
    counts = {"num_trained_tokens": 2, "num_charged_tokens": 100}
    metrics = {**RESULT.metrics, "train_seconds": 50.0, **counts}
    with harness.database.begin() as tx:
        job = tx.training.locked(held.job.id)
        assert job is not None
        tx.training.save(replace(job, result=replace(RESULT, metrics=metrics)))
    assert held.job.step is Step.VALIDATE
    assert estimated(harness, 100).seconds == 810
    assert estimated(harness, 100, steps=1).seconds == 405  # evaluation and index read every row


def test_nothing_usable_is_no_step(harness: JobHarness) -> None:
    assert estimated(harness, 1).num_steps == 0


def test_an_estimate_is_refused_for_the_same_reasons_as_a_job(harness: JobHarness) -> None:
    with pytest.raises(InvalidConfig):
        estimated(harness, 10, rank=0)
    estimates = Estimates(harness.database, InMemoryRows(letter_rows()), {BASE.digest: Tokeniser()}, PAID)
    with pytest.raises(NotFound):
        estimates.estimate(ASKING, SnapshotId(Hash32("0x" + "00" * 32)), {})
    with pytest.raises(EmptySnapshot):
        estimates.estimate(ASKING, harness.snapshot(False), {})
