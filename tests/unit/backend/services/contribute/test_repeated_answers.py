"""Which answers repeat published ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.ids import VersionId
from backend.services.contribute import repeated_answers
from backend.services.contribute.repeated_answers import (
    MAX_SHARING,
    AnswerIndex,
    Repeat,
    shingle_answers,
    without_answers,
)
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, OTHER = VersionId(some_hash("one")), VersionId(some_hash("other"))
PUBLISHED = (
    "Returns the number of rows that the cursor has fetched so far, or minus one if it cannot tell.",
    "Yes.",
    "A session holds the objects that were loaded from the database and writes their changes back.",
)
INDEX = AnswerIndex([shingle_answers(ONE, PUBLISHED)])
UNRELATED = "Opens a file for reading and raises an error that names it where it is not found on the disk."
WORDS = [f"{first}{second}" for first in ("ba", "ke", "li", "mo") for second in ("rant", "dith", "pole")]


def place(text: str) -> int | None:
    """Number of the published answer that `text` repeats."""
    found = INDEX.find([UNRELATED, text])
    assert 0 not in found
    return found[1].number if 1 in found else None


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace(" ", "  \n") + "!",
        "\u200b".join,
        lambda text: text.replace("a", "\uff41"),  # a fullwidth letter
        lambda text: f"This is what it does. {text} That is all that there is to say about this.",
        lambda text: text.replace("database", "archive").replace("loaded", "fetched"),
    ],
)
def test_an_answer_repeats_a_published_one_in_another_form(change: Callable[[str], str]) -> None:
    assert place(change(PUBLISHED[2])) == 2


def test_other_answers_repeat_none() -> None:
    assert place("Returns the number of bytes in the buffer, or raises an error if it was closed.") is None
    assert place("") is None
    assert place("\n") is None


def test_short_answers_are_not_compared() -> None:
    assert place("Yes.") is None


def test_an_answer_within_a_long_text_is_a_quotation() -> None:
    rng = random.Random(0)
    around = " ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(100))
    assert place(f"{PUBLISHED[0]} {around}") is None


def test_nothing_repeats_what_was_not_published() -> None:
    for published in ([], [shingle_answers(ONE, [])], [shingle_answers(ONE, ["Yes."])]):
        index = AnswerIndex(published)
        assert index.is_empty
        assert not index.find([PUBLISHED[0], "Yes."])


def test_answers_that_are_left_out_are_not_repeated_and_the_others_keep_their_numbers() -> None:
    published = without_answers(shingle_answers(ONE, PUBLISHED), {0})
    found = AnswerIndex([shingle_answers(OTHER, []), published]).find(PUBLISHED)
    assert found == {2: Repeat(ONE, 2)}
    assert AnswerIndex([published]).repeated_by([PUBLISHED[2]]) == {2}


def test_the_earliest_version_is_named_and_popular_answers_are_found() -> None:
    versions = [VersionId(some_hash(str(number))) for number in range(MAX_SHARING + 5)]
    index = AnswerIndex([shingle_answers(version, PUBLISHED) for version in versions])
    assert index.find(PUBLISHED) == {0: Repeat(versions[0], 0), 2: Repeat(versions[0], 2)}


def test_an_answer_of_popular_shingles_is_found_by_its_others() -> None:
    opening = "The class of the module is a class that is used to represent "
    rng = random.Random(1)
    endings = ["".join(rng.choices("abcdefghijklmnop", k=90)) for _ in range(2 * MAX_SHARING)]
    answers = [opening + ending for ending in endings]
    found = AnswerIndex([shingle_answers(ONE, answers)]).find(answers)
    assert {place: repeat.number for place, repeat in found.items()} == {n: n for n in range(len(answers))}


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), max_size=12),
    st.integers(1, 200),
)
def test_portions_of_texts_are_compared_as_one(texts: list[str], size: int) -> None:
    index = AnswerIndex([shingle_answers(ONE, texts[::2]), shingle_answers(OTHER, texts[1::2])])
    whole = index.find(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_answers, "CHARACTERS_AT_ONCE", size)
        assert index.find(texts) == whole


@settings(max_examples=30)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_text_can_be_published_and_compared(texts: list[str]) -> None:
    published = shingle_answers(ONE, texts)
    assert len(published.lengths) == 4 * len(texts)
    index = AnswerIndex([published])
    lengths = [int.from_bytes(published.lengths[4 * n : 4 * n + 4], "little") for n in range(len(texts))]
    assert index.find(texts).keys() == {n for n, length in enumerate(lengths) if length}
