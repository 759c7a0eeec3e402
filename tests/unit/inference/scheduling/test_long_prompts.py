"""Steps that a long prompt shares with others, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.scheduling.scheduler import AGEING_SECONDS
from tests.support.scheduling import SchedulerHarness

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.request import GenerationRequest


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """It takes up to half of each step; what it leaves is the long prompt's."""
    harness = SchedulerHarness()
    harness.add(100)
    assert harness.step() == {"None0": 16}
    harness.add(12, max_tokens=2)
    assert harness.step() == {"None0": 8, "None1": 8}
    assert harness.step() == {"None0": 12, "None1": 4}
    assert harness.step() == {"None1": 1, "None0": 15}


def test_short_prompts_that_keep_coming_leave_half_of_each_step_to_a_long_one() -> None:
    harness = SchedulerHarness()
    harness.add(100)
    parts = []
    for _ in range(8):
        harness.add(3, max_tokens=1)
        harness.add(9, max_tokens=1)
        parts.append(harness.step()["None0"])
    assert min(parts) == 8


def test_a_prompt_that_may_pass_a_long_one_is_passed_by_a_shorter_one() -> None:
    harness = SchedulerHarness()
    harness.add(200)
    harness.add(40)
    assert harness.step() == {"None0": 8, "None1": 8}
    harness.add(3)
    assert harness.step() == {"None0": 8, "None1": 5, "None2": 3}


def test_a_prompt_of_similar_length_waits_for_the_first_one() -> None:
    """Side by side both would end late."""
    harness = SchedulerHarness()
    harness.add(64, max_tokens=1)
    harness.add(32, max_tokens=1)
    assert [harness.step() for _ in range(4)] == [{"None0": 16}] * 4
    assert harness.step() == {"None1": 16}


def test_a_short_prompt_waits_for_a_long_one_with_which_it_begins() -> None:
    """It starts once the long one has computed what both share."""
    harness = SchedulerHarness()
    harness.add(100, token=7)
    harness.step()
    harness.add(26, token=7, max_tokens=1)
    assert harness.step() == {"None0": 16}
    assert harness.step() == {"None0": 14, "None1": 2}


def steps_until_answered(
    harness: SchedulerHarness, request: GenerationRequest, refill: Callable[[], object]
) -> int:
    """While others keep coming."""
    for number in range(1, 500):
        refill()
        harness.step()
        if request.num_answer_tokens:
            return number
    raise AssertionError("it starves")


def test_short_prompts_do_not_take_the_blocks_of_a_long_one() -> None:
    """It holds those of all its tokens, and is not preempted for answers that began later."""
    harness = SchedulerHarness(num_blocks=100)
    long = harness.add(300, max_tokens=1)
    harness.step()
    steps = steps_until_answered(harness, long, lambda: harness.add(8, max_tokens=40, payer="others"))
    assert steps <= 2 * 300 // 8
    assert not long.num_preemptions


@pytest.mark.parametrize("length", [12, 40, 63, 200])
def test_a_backlog_that_arrived_before_a_long_prompt_leaves_it_half_once_it_runs(length: int) -> None:
    harness = SchedulerHarness(num_blocks=2000)
    for _ in range(60):
        harness.add(length, max_tokens=1, payer="backlog")
    long = harness.add(2000, max_tokens=1, payer="long")
    while not long.num_computed:
        harness.step()
    assert steps_until_answered(harness, long, lambda: None) <= 2 * 2000 // 16


@pytest.mark.parametrize("length", [31, 79, 511])
def test_a_higher_class_does_not_suspend_a_long_prompt_that_runs(length: int) -> None:
    harness = SchedulerHarness(num_blocks=2000)
    long = harness.add(400, max_tokens=1, payer="flex", priority=-1)
    harness.step()

    def refill() -> None:
        if not any(True for _ in harness.scheduler.waiting()):
            harness.add(length, max_tokens=1, payer="others")

    assert steps_until_answered(harness, long, refill) <= 2 * 400 // 16


def test_an_aged_request_joins_a_long_prompt_as_one_of_the_class_that_it_joined() -> None:
    harness = SchedulerHarness(num_blocks=200)
    harness.add(400, payer="long")
    harness.step()
    harness.add(8, payer="others", max_tokens=1)
    harness.step()
    harness.add(3, payer="flex", priority=-1, max_tokens=1)
    harness.now = AGEING_SECONDS
    harness.add(3, payer="others", max_tokens=1)
    assert harness.step() == {"None0": 10, "None2": 3, "None3": 3}


def test_a_request_over_its_payers_share_of_rows_holds_back_no_other_beside_a_long_prompt() -> None:
    harness = SchedulerHarness(num_blocks=300, num_rows=1024)
    harness.slots.ranks |= {"used": 512, "wide": 600}
    harness.add(4, "used", max_tokens=90, payer="wide")
    harness.add(400, payer="long")
    harness.step()
    harness.add(390, "wide", payer="wide")
    harness.add(3, payer="others")
    assert "None3" in harness.step()


def test_a_prompt_whose_beginning_is_cached_counts_as_short() -> None:
    harness = SchedulerHarness()
    harness.add(48, token=7, max_tokens=1)
    while harness.step():
        pass
    harness.add(64)
    harness.step()
    harness.add(50, token=7)
    assert harness.step() == {"None1": 14, "None2": 2}


def test_a_payer_that_was_served_less_is_not_passed_while_its_prompt_waits_for_a_long_one() -> None:
    harness = SchedulerHarness()
    harness.add(8, payer="often", max_tokens=1)
    harness.add(100, payer="long")
    assert harness.step() == {"None0": 8, "None1": 8}
    harness.add(90, payer="rare")
    harness.add(3, payer="often")
    assert harness.step() == {"None1": 16}


@pytest.mark.parametrize(("priority", "parts"), [(1, {"None0": 8, "None1": 8}), (-1, {"None0": 16})])
def test_a_class_decides_before_length_who_passes_a_long_prompt(priority: int, parts: dict[str, int]) -> None:
    harness = SchedulerHarness()
    harness.add(100)
    harness.step()
    harness.add(200 if priority > 0 else 3, priority=priority)
    assert harness.step() == parts
