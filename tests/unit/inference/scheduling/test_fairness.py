"""The scheduler serves payers and adapters in turns, however many requests one of them sends."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.fair_queue import ANSWER_WEIGHT, PROMPT_WEIGHT
from tests.support.scheduling import SchedulerHarness


def test_adapters_take_turns() -> None:
    harness = SchedulerHarness(max_running=2)
    for _ in range(3):
        harness.add(2, "hot", max_tokens=1)
    harness.add(2, "cold", max_tokens=1)
    assert set(harness.step()) == {"hot0", "cold3"}


def test_the_base_model_does_not_wait_for_an_adapter_that_joins_after_it() -> None:
    """The payer's base-model requests are the last to leave the queue, then both wait."""
    harness = SchedulerHarness(max_running=1)
    for _ in range(20):
        harness.add(2, max_tokens=1)
        harness.step()
    for _ in range(4):
        harness.add(2, "new", max_tokens=1)
        harness.add(2, max_tokens=1)
    started = [next(iter(harness.step())).rstrip("0123456789") for _ in range(8)]
    assert started == ["new", *["new", "None"] * 3, "None"]


def test_payers_take_turns_however_many_adapters_one_of_them_uses() -> None:
    harness = SchedulerHarness(max_running=4)
    for adapter in "abcd":
        harness.add(2, adapter, payer="many", max_tokens=1)
    for _ in range(2):
        harness.add(2, "x", payer="one", max_tokens=1)
    assert set(harness.step()) == {"a0", "x4", "b1", "x5"}


WIDE = {f"wide{number}": 512 for number in range(20)} | {f"rank{number}": 128 for number in range(200)}


@pytest.mark.parametrize(
    ("rank", "most_rows", "least_part"), [(512, 512, 0.9), (128, 256, 0.9), (1024, 1024, 0.7)]
)
def test_wide_adapters_of_one_payer_leave_rows_and_places_to_others(
    rank: int, most_rows: int, least_part: float
) -> None:
    """Eight payers with an adapter of rank 8 each, and one that keeps wide requests with long answers
    waiting. `least_part` of the capacity goes to the others, and to each the same.
    """
    harness = SchedulerHarness(num_blocks=1000, max_running=8, num_slots=8)
    harness.slots.ranks = {str(number): rank for number in range(400)} | {
        f"v{number}": 8 for number in range(8)
    }
    unused, used = count(), []
    for _ in range(600):
        unfinished = [*harness.scheduler.running, *harness.scheduler.waiting()]
        by_payer = Counter(request.payer for request in unfinished)
        for _ in range(10 - by_payer["wide"]):
            harness.add(2, str(next(unused)), 100, "wide")
        for number in range(8):
            if not by_payer[f"v{number}"]:
                harness.add(2, f"v{number}", 4 + number, f"v{number}")
        harness.step()
        used.append(rank * sum(request.payer == "wide" for request in harness.scheduler.running))
    assert max(used) == most_rows
    others = [harness.served[f"v{number}", f"v{number}"] for number in range(8)]
    assert sum(others) >= least_part * 600 * 8 * ANSWER_WEIGHT
    assert max(others) - min(others) <= 2 * ANSWER_WEIGHT * 8 * 11


def test_a_payer_alone_uses_all_rows() -> None:
    harness = SchedulerHarness()
    harness.slots.ranks = dict(WIDE)
    for number in range(3):
        harness.add(2, f"wide{number}", 9)
    assert set(harness.step()) == {"wide00", "wide11"}


def test_a_request_over_its_payers_share_waits_for_those_before_it_and_then_runs_alone() -> None:
    harness = SchedulerHarness()
    harness.slots.ranks = WIDE | {"other": 8}
    harness.add(2, "other", 30, payer="other")
    harness.add(2, "rank0", 4)
    harness.step()
    for adapter in ("wide0", "rank1", "rank0", None):
        harness.add(2, adapter, 3)
    assert set(harness.step()) == {"other0", "rank01", "rank04", "None5"}
    while "wide02" not in (last := harness.step()):
        assert "rank13" not in last
    assert set(last) == {"other0", "wide02"}


def test_a_payer_held_back_by_its_share_saves_up_nothing() -> None:
    """Nor does a payer that starts to wait begin with what it is behind."""
    harness = SchedulerHarness()
    harness.slots.ranks = {"x": 300, "y": 300}
    for adapter in "xy":
        harness.add(2, adapter, 200, payer="wide")
    for _ in range(150):
        for payer in "pq":
            for _ in range(4):
                harness.add(2, None, 4, payer=payer)
        harness.step()
    harness.add(2, None, 4, payer="new")
    counters = harness.scheduler._queues[0]._payers._served
    assert (
        min(counters["wide"], counters["new"])
        >= min(counters["p"], counters["q"]) - 2 * ANSWER_WEIGHT * 8 * 4
    )


def test_a_preempted_request_is_charged_once() -> None:
    harness = SchedulerHarness(num_blocks=4)
    harness.add(8, max_tokens=8, payer="p")
    harness.add(4, max_tokens=8, payer="p")
    while harness.step():
        pass
    assert harness.scheduler.num_preemptions
    assert harness.served["p", None] == 12 * PROMPT_WEIGHT + 16 * ANSWER_WEIGHT


@settings(max_examples=20, deadline=None)
@given(
    longest=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    num_requests=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    num_blocks=st.integers(12, 60),
    max_running=st.integers(1, 6),
    num_slots=st.integers(2, 3),
    data=st.data(),
)
def test_no_payer_and_no_adapter_gets_much_more_than_another(
    longest: tuple[int, int],
    num_requests: list[int],
    num_blocks: int,
    max_running: int,
    num_slots: int,
    data: st.DataObject,
) -> None:
    """All flows are continuously backlogged, some with far more requests than others. The flow served most
    was served least when it was last chosen; since then it got one prompt and its running answers.

    A step admits up to `max_running` requests, so each flow keeps that many more waiting: a flow whose queue
    runs empty rejoins at the smallest counter (Sheng et al., algorithm 2), and the bound does not cover it.
    Both adapters find a slot: nor does it cover flows that pass one that lacks a slot.
    """
    harness = SchedulerHarness(num_blocks, max_running, max_step_tokens=24, num_slots=num_slots)
    bound = PROMPT_WEIGHT * longest[0] + ANSWER_WEIGHT * max_running * longest[1]
    adapters = ("a", "b", None)
    flows = [(f"p{number}", adapter) for number in range(len(num_requests)) for adapter in adapters]
    lengths = data.draw(st.lists(st.tuples(*(st.integers(1, most) for most in longest)), min_size=1))
    turn = count()
    for _ in range(150):
        for payer, adapter in flows:
            waiting = [
                r for r in harness.scheduler.waiting() if (r.payer, r.adapter_digest) == (payer, adapter)
            ]
            for _ in range(num_requests[int(payer[1:])] + max_running - len(waiting)):
                num_tokens, max_tokens = lengths[next(turn) % len(lengths)]
                harness.add(num_tokens, adapter, max_tokens, payer)
        harness.step()
        by_payer = [
            sum(harness.served[payer, adapter] for adapter in adapters) for payer in {p for p, _ in flows}
        ]
        assert max(by_payer) - min(by_payer) <= bound
        for payer, _ in flows:
            by_adapter = [harness.served[payer, adapter] for adapter in adapters]
            assert max(by_adapter) - min(by_adapter) <= bound


@settings(max_examples=20, deadline=None)
@given(
    wide=st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6
    ),
    plain=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6),
    max_running=st.integers(1, 6),
)
def test_no_payer_of_wide_adapters_gets_much_more_than_others(
    wide: list[tuple[int, int, int]], plain: list[tuple[int, int]], max_running: int
) -> None:
    """Two payers that use the base model, and one with adapters of any rank, keep requests waiting."""
    harness = SchedulerHarness(200, max_running, max_step_tokens=32, num_slots=6, num_rows=64)
    bound = PROMPT_WEIGHT * 20 + 2 * ANSWER_WEIGHT * max_running * 12
    turn = count()
    for _ in range(120):
        waiting = Counter(request.payer for request in harness.scheduler.waiting())
        for payer in "pqw":
            for _ in range(max_running + 1 - waiting[payer]):
                number = next(turn)
                if payer == "w":
                    rank, num_tokens, max_tokens = wide[number % len(wide)]
                    harness.slots.ranks[str(number)] = rank
                    harness.add(num_tokens, str(number), max_tokens, payer)
                else:
                    num_tokens, max_tokens = plain[number % len(plain)]
                    harness.add(num_tokens, None, max_tokens, payer)
        harness.step()
        served = harness.scheduler._queues[0]._payers._served
        assert abs(served["p"] - served["q"]) <= bound
        assert served["w"] - min(served["p"], served["q"]) <= bound


def test_idling_saves_up_nothing() -> None:
    harness = SchedulerHarness(max_running=1)
    for _ in range(50):
        harness.add(4, payer="busy", max_tokens=1)
    for _ in range(20):
        harness.step()
    for _ in range(20):
        harness.add(4, payer="late", max_tokens=1)
    before = dict(harness.served)
    for _ in range(10):
        harness.step()
    assert harness.served["late", None] == harness.served["busy", None] - before["busy", None]
