from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.domain.attribution import INDEX_FILE, UNIFORM_METHOD, shares_from_scores
from backend.domain.receipt import Share
from backend.domain.rules import to_position
from backend.ports.attribution import Probe
from backend.services.answers.attribution import Uniform
from backend.services.receipts.reexecution import (
    ROUNDING_GAP,
    Difference,
    Reexecution,
    attribution_check,
    execution_check,
    first_difference,
)
from inference.protocol import TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def place(*tokens: tuple[str, float]) -> TokenLogprobs:
    """The first one was chosen."""
    ranked = [TokenLogprob(0, token.encode(), logprob) for token, logprob in tokens]
    return TokenLogprobs(ranked[0], ranked)


def repeated(*places: TokenLogprobs, text: str | None = None) -> Reexecution:
    spoken = b"".join(each.chosen.token for each in places).decode().removesuffix("<|im_end|>")
    return Reexecution(spoken if text is None else text, places, None)


HELLO = (place(("Hello", -0.1), ("Hi", -2.0)), place((" there", -0.5), (" the", -0.6), (" you", -3.0)))


def test_the_same_text_has_no_difference() -> None:
    assert first_difference("Hello there", repeated(*HELLO)) is None
    assert execution_check("Hello there", repeated(*HELLO)).is_right is True


def test_text_removed_by_a_stop_string_is_no_difference() -> None:
    assert first_difference("Hello", repeated(*HELLO, text="Hello")) is None


BLANK = (place((" Hello", -0.1)), place((" there", -0.5), (" you", -0.6)), place(("<|im_end|>", -0.1)))


@pytest.mark.parametrize(
    ("claimed", "text"), [("Hello there", " Hello there"), (" Hello there", "Hello there")]
)
def test_a_first_blank_that_one_decoder_dropped_is_no_difference(claimed: str, text: str) -> None:
    check = execution_check(claimed, repeated(*BLANK, text=text))
    assert check.is_right is True
    assert "but for a blank at their start" in check.message


def test_tokens_are_compared_after_a_first_blank_that_the_decoder_dropped() -> None:
    found = first_difference("Hello you", repeated(*BLANK, text="Hello there"))
    assert found == Difference(1, b" there", b" you", pytest.approx(0.1))


def test_the_first_differing_token_is_named_with_its_gap() -> None:
    found = first_difference("Hello you", repeated(*HELLO))
    assert found == Difference(1, b" there", b" you", pytest.approx(2.5))
    check = execution_check("Hello you", repeated(*HELLO))
    assert check.is_right is False
    assert "token 2 is b' you'" in check.message
    assert "2.500" in check.message


def test_of_several_tokens_that_fit_the_likeliest_is_taken() -> None:
    ours = repeated(place(("A", -0.1), ("B", -9.0), ("Bee", -1.0)))
    found = first_difference("Bees", ours)
    assert found is not None
    assert (found.claimed, found.gap) == (b"Bee", pytest.approx(0.9))


def test_a_near_tie_is_left_open() -> None:
    near = repeated(place(("A", -1.0), ("B", -1.0 - ROUNDING_GAP / 2)))
    check = execution_check("B", near)
    assert check.is_right is None
    assert "rounding" in check.message


def test_a_token_that_is_none_of_the_likeliest_has_no_gap_and_is_wrong() -> None:
    found = first_difference("Bye", repeated(*HELLO))
    assert found == Difference(0, b"Hello", b"Bye", None)
    assert execution_check("Bye", repeated(*HELLO)).is_right is False


def test_an_answer_shorter_than_the_recomputed_one_is_compared_by_its_closing_token() -> None:
    ours = repeated(*HELLO, place((" now", -0.3), ("<|im_end|>", -0.5)))
    assert first_difference("Hello there", ours) == Difference(2, b" now", b"<|im_end|>", pytest.approx(0.2))


def test_an_answer_longer_than_the_recomputed_one_is_compared_by_its_closing_token() -> None:
    ours = repeated(*HELLO, place(("<|im_end|>", -0.3), (" now", -1.3)))
    found = first_difference("Hello there now", ours)
    assert found == Difference(2, b"<|im_end|>", b" now", pytest.approx(1.0))
    assert first_difference("Hello there now", repeated(*HELLO)) == Difference(2, b"", b" now", None)


@dataclass(frozen=True)
class Scores:
    """A method that says the same of every answer that has a probe."""

    method: str
    found: tuple[float, ...]

    def is_prepared(self, _: Path) -> bool:
        return True

    def prepare(self, adapter_folder: Path) -> None:
        pass

    def scores(self, folder: Path, positions: Sequence[int], probe: Probe) -> Mapping[int, float] | None:
        return None if probe.hidden is None else dict(zip(positions, self.found, strict=True))


METHODS = (Scores("new-1", (1.0, 3.0)), Scores("old-1", (3.0, 1.0)), Uniform())
PROBE = Probe([1.0])


def check(
    method: str,
    scores: tuple[float, float],
    probe: Probe | None,
    folder: Path = Path(),
    *,
    is_blend: bool = False,
) -> bool | None:
    shares = shares_from_scores(dict(enumerate(scores)))
    return attribution_check(METHODS, folder, (0, 1), method, shares, probe, is_blend=is_blend).is_right


def test_shares_are_judged_by_the_method_that_was_signed() -> None:
    assert check("new-1", (1.0, 3.0), PROBE) is True
    assert check("new-1", (3.0, 1.0), PROBE) is False
    assert check("old-1", (3.0, 1.0), PROBE) is None  # it was the first once, or suited the operator
    assert check("old-1", (1.0, 3.0), PROBE) is False


def test_many_small_differences_that_move_much_in_all_are_not_called_right() -> None:
    """Each share differs by 2 %, less than rounding explains, and ten contributions lose 20 % of the pool."""
    methods = Scores("new-1", (1.0,) * 20), Uniform()
    shares = [Share(at, 30_000 if at < 10 else 70_000) for at in range(20)]
    found = attribution_check(methods, Path(), range(20), "new-1", shares, PROBE)
    assert found.is_right is None
    assert "200000 in all" in found.message


def test_sharing_all_alike_is_open_while_an_index_could_apply(tmp_path: Path) -> None:
    shares = shares_from_scores({0: 1.0, 1: 1.0})
    checked = METHODS, tmp_path, (0, 1), UNIFORM_METHOD, shares
    assert attribution_check(*checked, None).is_right is True
    (tmp_path / INDEX_FILE).touch()
    assert attribution_check(*checked, None).is_right is None


def test_sharing_all_alike_is_right_only_where_nothing_else_applies() -> None:
    assert check(UNIFORM_METHOD, (1.0, 1.0), PROBE) is False
    assert check(UNIFORM_METHOD, (1.0, 1.0), Probe()) is True


def check_of_many(num_positions: int, signed_draw: int, draw: int | None) -> bool | None:
    shares = shares_from_scores(dict.fromkeys(range(num_positions), 1.0), signed_draw)
    given = METHODS, Path(), range(num_positions), UNIFORM_METHOD, shares, Probe()
    return attribution_check(*given, draw).is_right


def test_the_answer_decides_which_of_many_contributions_share_alike() -> None:
    assert check_of_many(300, signed_draw=7, draw=307) is True
    assert check_of_many(300, signed_draw=70, draw=7) is False
    assert check_of_many(300, signed_draw=70, draw=None) is None
    assert check_of_many(256, signed_draw=70, draw=7) is True


def test_shares_of_the_first_of_many_contributions_as_in_release_0_1_0_are_open() -> None:
    assert check_of_many(300, signed_draw=0, draw=7) is None


def test_shares_at_each_position_of_a_contribution_as_in_release_0_1_0_are_open() -> None:
    signed = (0, 1, to_position(1, 0), to_position(1, 1))
    shares = shares_from_scores(dict.fromkeys(signed, 1.0))
    for positions, is_right in (((0, 1), None), (signed, True), ((0, 1, 2), False)):
        found = attribution_check(METHODS, Path(), positions, UNIFORM_METHOD, shares, Probe(), None)
        assert found.is_right is is_right


def test_shares_that_no_draw_has_are_wrong() -> None:
    shares = shares_from_scores(dict.fromkeys(range(1, 256), 1.0))
    found = attribution_check(METHODS, Path(), range(300), UNIFORM_METHOD, shares, Probe(), None)
    assert found.is_right is False


@pytest.mark.parametrize("probe", [None, Probe()])
def test_a_version_without_an_index_shares_all_alike_whatever_method_its_blend_has(
    probe: Probe | None,
) -> None:
    assert check("new-1", (1.0, 1.0), probe, is_blend=True) is True
    assert check("new-1", (1.0, 3.0), probe, is_blend=True) is False
    assert check("new-1", (1.0, 1.0), probe) is False


def test_blends_of_earlier_releases_that_share_all_alike_are_left_open() -> None:
    assert check(UNIFORM_METHOD, (1.0, 1.0), PROBE, is_blend=True) is None
    assert check(UNIFORM_METHOD, (1.0, 3.0), PROBE, is_blend=True) is False


def test_without_the_answers_state_or_the_method_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).touch()
    assert check("new-1", (1.0, 3.0), None, tmp_path) is None
    assert check("unheard-of-1", (1.0, 3.0), PROBE) is None
