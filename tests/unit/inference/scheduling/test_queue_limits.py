from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling.queue_limits import QueueLimits


def test_a_share_is_the_larger_part_of_either_bound() -> None:
    limits = QueueLimits(max_requests=10, max_tokens=100)
    limits.enter("many", 1)
    limits.enter("many", 1)
    limits.enter("long", 50)
    assert (limits.share("many"), limits.share("long"), limits.share("unknown")) == (0.2, 0.5, 0.0)
    assert limits.heaviest_payer() == "long"
    limits.leave("long", 50)
    assert limits.heaviest_payer() == "many"


@given(st.lists(st.tuples(st.sampled_from("aab"), st.integers(1, 60)), max_size=80))
def test_there_is_always_room_for_one_more_payer_until_many_have_come(entered: list[tuple[str, int]]) -> None:
    """One takes half at most, two take three quarters."""
    limits = QueueLimits(max_requests=64, max_tokens=640)
    for payer, num_tokens in entered:
        if limits.has_room_for(payer, num_tokens):
            limits.enter(payer, num_tokens)
        assert limits.share("a") <= 0.5 or limits.num_requests == 1
        assert limits.has_room_for("c", 1)
        assert limits.num_requests <= 64


def test_nothing_is_left_of_those_who_left() -> None:
    limits = QueueLimits(max_requests=2, max_tokens=2)
    limits.enter("a", 7)  # alone it may be of any length
    assert not limits.has_room(1)
    limits.leave("a", 7)
    assert limits.has_room(7)
    assert (limits.num_requests, limits.num_tokens, limits.share("a")) == (0, 0, 0.0)
    assert not limits._requests
    assert not limits._tokens
