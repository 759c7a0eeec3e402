from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.fair_queue import ANSWER_WEIGHT
from inference.scheduling.row_shares import RowShares
from tests.support.scheduling import SchedulerHarness

if TYPE_CHECKING:
    from inference.request import Request


def request(payer: str, adapter: str | None) -> Request:
    return SchedulerHarness().add(1, adapter, payer=payer)


@pytest.mark.parametrize(
    ("num_rows", "cost"), [(0, 1.0), (8, 1.0), (32, 1.0), (40, 1.5), (128, 4.0), (512, 16.0), (1024, 32.0)]
)
def test_an_answer_token_costs_its_part_of_the_scarcer_of_places_and_rows(num_rows: int, cost: float) -> None:
    shares, first = RowShares(1024, 32), request("p", "a")
    shares.start(first, num_rows)
    assert shares.cost(first) == cost * ANSWER_WEIGHT


def test_requests_of_one_adapter_share_its_rows() -> None:
    shares, requests = RowShares(1024, 32), [request(payer, "a") for payer in "pqpq"]
    for each in requests:
        shares.start(each, 512)
    assert [shares.cost(each) for each in requests] == [4 * ANSWER_WEIGHT] * 4
    shares.end(requests.pop())
    shares.end(requests.pop())
    assert [shares.cost(each) for each in requests] == [8 * ANSWER_WEIGHT] * 2


@pytest.mark.parametrize(
    ("num_waiting", "num_rows", "is_exceeded"),
    [(1, 624, False), (1, 625, True), (2, 112, False), (2, 113, True), (3, 1, True), (9, 1, True)],
)
def test_rows_are_divided_among_up_to_four_payers(num_waiting: int, num_rows: int, is_exceeded: bool) -> None:
    shares = RowShares(1024, 32)
    shares.start(request("p", "a"), 400)
    assert shares.exceeds("p", num_rows, num_waiting) == is_exceeded
    assert not shares.exceeds("q", 1024, num_waiting)


@settings(max_examples=60, deadline=None)
@given(
    running=st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("abcd")), max_size=12),
    cuts=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    data=st.data(),
)
def test_a_step_costs_at_most_twice_what_places_cost(
    running: list[tuple[str, str]], cuts: list[int], data: st.DataObject
) -> None:
    """However the rows are divided among adapters; and what ends leaves nothing behind."""
    ends = [0, *sorted(cuts), 40]
    ranks = {name: ends[number + 1] - ends[number] for number, name in enumerate("abcd")}
    shares, requests = RowShares(40, 12), [request(*each) for each in running]
    for each in requests:
        shares.start(each, ranks[each.adapter_digest or ""])
    for each in data.draw(st.permutations(requests)):
        shares.check_integrity(requests)
        assert sum(map(shares.cost, requests)) <= 2 * ANSWER_WEIGHT * 12
        requests.remove(each)
        shares.end(each)
    shares.check_integrity([])
