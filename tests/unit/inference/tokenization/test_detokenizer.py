from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from inference.tokenization.detokenizer import IncrementalDetokenizer, StopFilter, TextStream

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")


class Words:
    """A tokenizer that puts a blank between words but not before the first, as SentencePiece ones do."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"w{token_id}" for token_id in token_ids)


@given(st.text())
def test_characters_come_whole_and_nothing_is_lost(text: str) -> None:
    detokenizer = IncrementalDetokenizer(Bytes())
    pieces = [detokenizer.push(byte) for byte in text.encode()]
    assert "".join(pieces) + detokenizer.flush() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.text(), st.text())
def test_an_answer_of_bytes_is_the_same_with_any_prompt(prompt: str, text: str) -> None:
    stream = TextStream(Bytes(), (), list(prompt.encode()))
    assert "".join(stream.push(byte) for byte in text.encode()) + stream.flush() == text


def test_an_incomplete_character_is_held_back_and_shown_broken_at_the_end() -> None:
    detokenizer = IncrementalDetokenizer(Bytes())
    assert [detokenizer.push(byte) for byte in "é€".encode()[:4]] == ["", "é", "", ""]
    assert detokenizer.flush() == "\ufffd"


def test_blanks_between_words_depend_on_their_neighbours() -> None:
    detokenizer = IncrementalDetokenizer(Words())
    assert [detokenizer.push(n) for n in (1, 2, 3)] == ["w1", " w2", " w3"]


def test_broken_bytes_do_not_hold_the_stream_up_for_ever() -> None:
    detokenizer = IncrementalDetokenizer(Bytes())
    assert "".join(detokenizer.push(0xFF) for _ in range(30))


@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_a_stream_is_cut_exactly_at_its_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    stream = StopFilter(stops)
    shown = "".join(stream.push(piece) for piece in pieces)
    if not stream.is_stopped:
        shown += stream.flush()
    whole = "".join(pieces)
    # The stream sees one piece after the other, so of two stops the one completed first wins.
    end = next((i for i in range(len(whole) + 1) if any(stop in whole[:i] for stop in stops)), None)
    if end is None:
        assert shown == whole
    else:
        assert stream.is_stopped
        assert whole.startswith(shown)
        assert not any(stop in shown for stop in stops)


def test_a_possible_prefix_of_a_stop_string_is_held_back() -> None:
    stream = StopFilter(["STOP"])
    assert [stream.push(piece) for piece in ("aS", "T", "x", "ST", "OPz")] == ["a", "", "STx", "", ""]
    assert stream.is_stopped


def test_the_end_of_an_answer_shows_what_was_held() -> None:
    stream = TextStream(Bytes(), ["!!"])
    shown = "".join(stream.push(byte) for byte in b"hi!")
    assert (shown, stream.flush()) == ("hi", "!")
