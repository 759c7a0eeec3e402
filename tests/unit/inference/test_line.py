from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.line import Line


def test_a_share_is_the_larger_part_of_either_bound() -> None:
    line = Line(max_requests=10, max_tokens=100)
    line.enter("many", 1)
    line.enter("many", 1)
    line.enter("long", 50)
    assert (line.share("many"), line.share("long"), line.share("nobody")) == (0.2, 0.5, 0.0)
    assert line.heaviest() == "long"
    line.leave("long", 50)
    assert line.heaviest() == "many"


@given(st.lists(st.tuples(st.sampled_from("aab"), st.integers(1, 60)), max_size=80))
def test_there_is_always_room_for_one_more_payer_until_many_have_come(entered: list[tuple[str, int]]) -> None:
    """One takes half at most, two take three quarters."""
    line = Line(max_requests=64, max_tokens=640)
    for payer, num_tokens in entered:
        if line.has_room_for(payer, num_tokens):
            line.enter(payer, num_tokens)
        assert line.share("a") <= 0.5 or line.num_requests == 1
        assert line.has_room_for("c", 1)
        assert line.num_requests <= 64


def test_nothing_is_left_of_those_who_left() -> None:
    line = Line(max_requests=2, max_tokens=2)
    line.enter("a", 7)  # alone it may be of any length
    assert not line.has_room(1)
    line.leave("a", 7)
    assert line.has_room(7)
    assert (line.num_requests, line.num_tokens, line.share("a")) == (0, 0, 0.0)
    assert not line._requests
    assert not line._tokens
