"""Decoders of SentencePiece, as Llama 2, Mistral and Phi-3 have them, drop the first blank of what they
decode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from inference.protocol import Generate, Message, Regex, Sampling
from inference.tokenization.detokenizer import TextStream
from tests.fixtures_engine import CHAT_TEMPLATE, run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inference.engine import Engine

BYTES = [f"<0x{byte:02X}>" for byte in sorted(set("\u9f98\u00e9 Paris.".encode()))]
PIECES = ["\u2581Paris", "\u2581is", "\u2581a", "\u2581", ".", "x"]
DECODERS = {
    "strip": decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
}


class SentencePieces:
    """Llama 2's tokenizer with few pieces; the end token is 1, as the tiny model's."""

    def __init__(self, decoder: str = "strip") -> None:
        pieces = ["<unk>", "</s>", *BYTES, *PIECES]
        model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True)
        self.tokenizer = Tokenizer(model)
        self.tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        self.tokenizer.decoder = DECODERS[decoder]
        self.tokenizer.add_special_tokens(["</s>"])

    def ids(self, *pieces: str) -> list[int]:
        return [self.tokenizer.token_to_id(piece) for piece in pieces]

    def encode(self, text: str) -> list[int]:
        encoded: list[int] = self.tokenizer.encode(text).ids
        return encoded

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(token_ids))
        return text


def shown(stream: TextStream, token_ids: Sequence[int]) -> str:
    return "".join(map(stream.push, token_ids)) + stream.flush()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "prompt",
    ["a", "Paris is", "x.", "the end: ", "\u9f98", "\u9f98" * 5, "x" * 20, " ", "</s>" * 9],
)
def test_an_answer_continues_its_prompt_with_every_blank(decoder: str, prompt: str) -> None:
    pieces = SentencePieces(decoder)
    before = pieces.encode(prompt)
    answer = pieces.ids("\u2581Paris", "\u2581is", "\u2581", "x", ".", "\u2581", "\u2581a")
    answer += pieces.ids(*(f"<0x{byte:02X}>" for byte in "\u9f98\u00e9".encode()), "x")
    text = shown(TextStream(pieces, (), before), answer)
    assert pieces.decode(before) + text == pieces.decode([*before, *answer])


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_incomplete_character_does_not_break_those_of_the_prompt(decoder: str) -> None:
    pieces = SentencePieces(decoder)
    stream = TextStream(pieces, (), pieces.encode("\u9f98" * 5))
    assert shown(stream, pieces.ids("<0xE9>", "<0xBE>")) == "\ufffd\ufffd"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_special_token_does_not_break_the_characters_after_it(decoder: str) -> None:
    pieces = SentencePieces(decoder)
    characters = pieces.ids(*(f"<0x{byte:02X}>" for byte in "\u9f98\u00e9".encode()))
    stream = TextStream(pieces, (), pieces.encode("\u9f98" * 5))
    assert shown(stream, [*pieces.ids("</s>"), *characters]) == "\u9f98\u00e9"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_stop_string_that_begins_with_a_blank_matches_at_the_start(decoder: str) -> None:
    pieces = SentencePieces(decoder)
    stream = TextStream(pieces, (" Paris",), pieces.encode("is"))
    assert [stream.push(each) for each in pieces.ids("\u2581Paris")] == [""]
    assert stream.is_stopped


@pytest.fixture
def sentence_piece_engine(edited: Callable[..., Path], make_engine: Callable[..., Engine]) -> Engine:
    folder = edited()
    pieces = SentencePieces()
    fast = PreTrainedTokenizerFast(tokenizer_object=pieces.tokenizer, eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return make_engine(folder)


PARIS = Sampling(max_tokens=64, constraint=Regex(r" Paris is\."), logprobs=0)


def test_the_bytes_of_a_completion_are_its_text(sentence_piece_engine: Engine) -> None:
    answer = run_all(sentence_piece_engine, Generate("r", prompt="x is", sampling=PARIS))["r"]
    tokens = [place.chosen.token for place in answer.logprobs]
    assert answer.text == " Paris is."
    assert b"".join(tokens).removesuffix(b"</s>").decode() == answer.text


def test_the_answer_to_a_chat_begins_with_its_first_word(sentence_piece_engine: Engine) -> None:
    chat = Generate("r", (Message("user", "x is"),), sampling=PARIS)
    assert run_all(sentence_piece_engine, chat)["r"].text == "Paris is."
