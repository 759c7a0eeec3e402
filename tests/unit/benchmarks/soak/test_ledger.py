"""What a soak test counts as success and as failure."""

from __future__ import annotations

import pytest

from benchmarks.soak.ledger import RequestLedger
from benchmarks.soak.run import Observations, growth
from benchmarks.soak.traffic import Planned
from inference.errors import AdapterPickleError, NumericalError, OverloadedError
from inference.outputs import Failure
from inference.protocol import Chunk, Generate, Sampling


def planned(code: str | None = None, *, abort_after: int | None = None) -> Planned:
    command = Generate("r", prompt=".", sampling=Sampling(max_tokens=2))
    return Planned(command, [1], expected_code=code, abort_after=abort_after)


def chunk(*token_ids: int, total: int, reason: str | None = None) -> Chunk:
    return Chunk("r", "", [*token_ids], 1, total, reason)  # type: ignore[arg-type] # a literal in disguise


@pytest.fixture
def ledger() -> RequestLedger:
    return RequestLedger()


def test_an_answer_with_all_its_tokens_closes_its_request(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    ledger.record(chunk(5, total=1))
    assert ledger.num_open == 1
    ledger.record(chunk(6, total=2, reason="length"))
    assert (ledger.num_open, ledger.problems) == (0, [])
    assert (ledger.counts["answered"], ledger.counts["tokens"]) == (1, 2)


def test_a_missing_token_is_a_problem(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    ledger.record(chunk(6, total=2, reason="length"))
    assert "1 of 2 tokens" in ledger.problems[0]


def test_an_end_that_comes_twice_is_a_problem(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    for _ in range(2):
        ledger.record(chunk(5, 6, total=2, reason="length"))
    assert "not open" in ledger.problems[0]


def test_a_hostile_adapter_must_fail_with_its_own_code(ledger: RequestLedger) -> None:
    ledger.accept(planned("adapter_pickle"))
    ledger.record(Failure("r", AdapterPickleError("x", "y")))
    assert not ledger.problems
    ledger.accept(planned("adapter_pickle"))
    ledger.record(Failure("r", NumericalError(None)))
    ledger.accept(planned("adapter_pickle"))
    ledger.record(chunk(5, 6, total=2, reason="length"))
    assert len(ledger.problems) == 2


def test_a_valid_request_must_not_fail(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    ledger.record(Failure("r", NumericalError(None)))
    assert ledger.problems


def test_a_request_may_be_shed_for_another_payer(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    ledger.record(Failure("r", OverloadedError(4, 100)))
    assert (ledger.num_open, ledger.problems, ledger.counts["shed"]) == (0, [], 1)


def test_clients_give_up_after_as_many_tokens_as_they_planned(ledger: RequestLedger) -> None:
    ledger.accept(planned(abort_after=1))
    assert [*ledger.requests_to_abort()] == []
    ledger.record(chunk(5, total=1))
    assert [*ledger.requests_to_abort()] == ["r"]
    ledger.aborted("r", chunk(total=1, reason="abort"))
    assert (ledger.num_open, ledger.problems, ledger.counts["aborted"]) == (0, [], 1)


def test_lost_requests_and_growing_memory_are_failures(ledger: RequestLedger) -> None:
    ledger.accept(planned())
    ledger.counts["answered"] = 1
    observed = Observations(ledger, anonymous_bytes=[*range(1000, 1100)], num_files=[7] * 50 + [70] * 50)
    lost, grown, files = sorted(observed.failures())
    assert "1 requests were accepted and never ended" in lost
    assert "memory grew by 4" in grown
    assert files == "open files grew from 7 to 70"


def test_memory_is_not_checked_while_caches_fill(ledger: RequestLedger) -> None:
    ledger.counts["answered"] = 1
    observed = Observations(ledger, anonymous_bytes=[*range(1000, 1100)])
    assert observed.failures(checks_memory=False) == []


def test_a_soak_test_without_answers_fails(ledger: RequestLedger) -> None:
    assert Observations(ledger).failures() == ["no request was answered"]


def test_growth_leaves_out_the_time_in_which_caches_fill() -> None:
    assert growth([1] * 25 + [100] * 75) == 0.0
    assert growth([100] * 50 + [110] * 50) == pytest.approx(0.1)
    assert growth([1, 2, 3]) == 0.0


def test_a_request_shed_before_an_abort_is_closed_by_the_next_step(ledger: RequestLedger) -> None:
    ledger.accept(planned(abort_after=0))
    ledger.aborted("r", None)
    assert ([*ledger.requests_to_abort()], ledger.num_open) == ([], 1)  # lost, should the soak end now
    ledger.record(Failure("r", OverloadedError(4, 100)))
    assert (ledger.num_open, ledger.problems, ledger.counts["shed"]) == (0, [], 1)


def test_output_after_the_engine_reported_a_request_as_unknown_is_a_problem(ledger: RequestLedger) -> None:
    ledger.accept(planned(abort_after=0))
    ledger.aborted("r", None)
    ledger.record(chunk(5, total=1))
    assert "output after" in ledger.problems[0]
