"""What a soak counts as right and as wrong."""

from __future__ import annotations

import pytest

from benchmarks.soak.ledger import Ledger
from benchmarks.soak.run import Observed, growth
from benchmarks.soak.traffic import Planned
from inference.engine import Failure
from inference.errors import AdapterPickleError, NumericalError, OverloadedError
from inference.protocol import Chunk, Generate, Sampling


def planned(code: str | None = None, *, abort_after: int | None = None) -> Planned:
    command = Generate("r", prompt=".", sampling=Sampling(max_tokens=2))
    return Planned(command, [1], expected_code=code, abort_after=abort_after)


def chunk(*token_ids: int, total: int, reason: str | None = None) -> Chunk:
    return Chunk("r", "", [*token_ids], 1, total, reason)  # type: ignore[arg-type] # a literal in disguise


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_an_answer_with_all_its_tokens_closes_its_request(ledger: Ledger) -> None:
    ledger.accept(planned())
    ledger.take(chunk(5, total=1))
    assert ledger.num_open == 1
    ledger.take(chunk(6, total=2, reason="length"))
    assert (ledger.num_open, ledger.problems) == (0, [])
    assert (ledger.counts["answered"], ledger.counts["tokens"]) == (1, 2)


def test_a_missing_token_is_a_problem(ledger: Ledger) -> None:
    ledger.accept(planned())
    ledger.take(chunk(6, total=2, reason="length"))
    assert "1 of 2 tokens" in ledger.problems[0]


def test_an_end_that_comes_twice_is_a_problem(ledger: Ledger) -> None:
    ledger.accept(planned())
    for _ in range(2):
        ledger.take(chunk(5, 6, total=2, reason="length"))
    assert "not open" in ledger.problems[0]


def test_a_hostile_adapter_must_fail_with_its_own_code(ledger: Ledger) -> None:
    ledger.accept(planned("adapter_pickle"))
    ledger.take(Failure("r", AdapterPickleError("x", "y")))
    assert not ledger.problems
    ledger.accept(planned("adapter_pickle"))
    ledger.take(Failure("r", NumericalError(None)))
    ledger.accept(planned("adapter_pickle"))
    ledger.take(chunk(5, 6, total=2, reason="length"))
    assert len(ledger.problems) == 2


def test_an_honest_request_must_not_fail(ledger: Ledger) -> None:
    ledger.accept(planned())
    ledger.take(Failure("r", NumericalError(None)))
    assert ledger.problems


def test_a_request_may_give_way_to_another_payers(ledger: Ledger) -> None:
    ledger.accept(planned())
    ledger.take(Failure("r", OverloadedError(4, 100)))
    assert (ledger.num_open, ledger.problems, ledger.counts["crowded_out"]) == (0, [], 1)


def test_clients_give_up_after_as_many_tokens_as_they_planned(ledger: Ledger) -> None:
    ledger.accept(planned(abort_after=1))
    assert [*ledger.to_abort()] == []
    ledger.take(chunk(5, total=1))
    assert [*ledger.to_abort()] == ["r"]
    ledger.aborted("r", chunk(total=1, reason="abort"))
    assert (ledger.num_open, ledger.problems, ledger.counts["aborted"]) == (0, [], 1)


def test_lost_requests_and_growing_memory_are_failures(ledger: Ledger) -> None:
    ledger.accept(planned())
    ledger.counts["answered"] = 1
    observed = Observed(ledger, rss_bytes=[*range(1000, 1100)], num_files=[7] * 50 + [70] * 50)
    lost, grown, files = sorted(observed.failures())
    assert "1 requests were accepted and never ended" in lost
    assert "memory grew by 4" in grown
    assert files == "open files grew from 7 to 70"


def test_memory_is_not_judged_while_caches_fill(ledger: Ledger) -> None:
    ledger.counts["answered"] = 1
    observed = Observed(ledger, rss_bytes=[*range(1000, 1100)])
    assert observed.failures(is_memory_judged=False) == []


def test_a_soak_that_answered_nothing_shows_nothing(ledger: Ledger) -> None:
    assert Observed(ledger).failures() == ["no request was answered"]


def test_growth_leaves_out_the_time_in_which_caches_fill() -> None:
    assert growth([1] * 25 + [100] * 75) == 0.0
    assert growth([100] * 50 + [110] * 50) == pytest.approx(0.1)
    assert growth([1, 2, 3]) == 0.0


def test_who_gave_way_before_an_abort_is_told_so_by_the_next_step(ledger: Ledger) -> None:
    ledger.accept(planned(abort_after=0))
    ledger.aborted("r", None)
    assert ([*ledger.to_abort()], ledger.num_open) == ([], 1)  # lost, should the soak end now
    ledger.take(Failure("r", OverloadedError(4, 100)))
    assert (ledger.num_open, ledger.problems, ledger.counts["crowded_out"]) == (0, [], 1)


def test_who_goes_on_after_the_engine_knew_nothing_of_it_is_a_problem(ledger: Ledger) -> None:
    ledger.accept(planned(abort_after=0))
    ledger.aborted("r", None)
    ledger.take(chunk(5, total=1))
    assert "goes on" in ledger.problems[0]
